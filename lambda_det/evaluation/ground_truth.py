"""The annotations of a dataset, checked and made ready for counting."""

from __future__ import annotations

import contextlib
import io
from functools import cached_property

from pycocotools.coco import COCO

from lambda_det.data.coco_json import parse_coco_json, summarize_coco
from lambda_det.data.rle import compress, first_broken
from lambda_det.errors import InputError


class GroundTruth:
    """What detections are judged by.

    Images are numbered anew in the order of their ids, and annotations from 1 on: pycocotools
    takes an annotation with id 0 for one that was never found.

    Args:
        content: a parsed COCO instances json; not changed.
        source: its name in messages, the path of the json.

    Attributes:
        categories: ``(id, name)`` sorted by id.
        images: id in the json -> number, height, width.
        has_masks: whether every annotation has a mask (so it is without annotations); False when
            none has.

    Raises:
        InputError: not COCO's format, an id unknown or repeated, a number that is not finite, no
            area or iscrowd, some annotations with masks and some without.
    """

    def __init__(self, content: dict, source: str) -> None:
        summary = summarize_coco(content, source)
        self.source = source
        self.categories = summary.categories
        self.images = _numbered_images(content["images"])
        self._annotations = content["annotations"]
        if summary.unjudged is not None:
            raise InputError(
                f"annotation file {source}: annotation id {summary.unjudged} has no number 'area' "
                "or no 'iscrowd' of 0 or 1, which COCO's evaluation needs"
            )
        masked = [bool(annotation.get("segmentation")) for annotation in self._annotations]
        self.has_masks = all(masked)
        if any(masked) and not self.has_masks:
            lacking = self._annotations[masked.index(False)]["id"]
            raise InputError(
                f"annotation file {source}: annotation id {lacking} has no segmentation, "
                f"{sum(masked)} others have; either all or none is needed"
            )

    @classmethod
    def from_file(cls, path: str) -> GroundTruth:
        """Read a COCO instances json."""
        return cls(parse_coco_json(path), path)

    def coco(self, task: str) -> COCO:
        """pycocotools' index of the annotations for ``"bbox"`` or ``"segm"``; made once."""
        return self._masks if task == "segm" else self._boxes

    @cached_property
    def _boxes(self) -> COCO:
        return self._index([{} for _ in self._annotations])

    @cached_property
    def _masks(self) -> COCO:
        # Rasterised here and not inside the evaluation, which would do it every time.
        codes = []
        for annotation in self._annotations:
            _, height, width = self.images[annotation["image_id"]]
            segmentation = annotation["segmentation"]
            try:
                codes.append(compress(segmentation, height, width, skip_short_polygons=True))
            except ValueError as error:
                raise InputError(
                    f"annotation file {self.source}: the segmentation of annotation id "
                    f"{annotation['id']} {error}"
                ) from error
        if (broken := first_broken(codes)) is not None:
            raise InputError(
                f"annotation file {self.source}: the segmentation of annotation id "
                f"{self._annotations[broken]['id']} is not one whole RLE of its image"
            )
        return self._index([{"segmentation": code} for code in codes])

    def _index(self, extra: list[dict]) -> COCO:
        return coco_index(
            self,
            [
                {
                    "id": number,
                    "image_id": self.images[annotation["image_id"]][0],
                    "category_id": annotation["category_id"],
                    "bbox": annotation["bbox"],
                    "area": annotation["area"],
                    "iscrowd": annotation["iscrowd"],
                    **more,
                }
                for number, (annotation, more) in enumerate(
                    zip(self._annotations, extra, strict=True), start=1
                )
            ],
        )


def coco_index(ground_truth: GroundTruth, annotations: list[dict]) -> COCO:
    """pycocotools' ``COCO`` of annotations or detections on the images of ``ground_truth``."""
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = {
            "images": [
                {"id": number, "height": height, "width": width}
                for number, height, width in ground_truth.images.values()
            ],
            "categories": [{"id": i, "name": name} for i, name in ground_truth.categories],
            "annotations": annotations,
        }
        index.createIndex()
    return index


def _numbered_images(images: list[dict]) -> dict[object, tuple[int, int, int]]:
    ordered = sorted(images, key=lambda image: image["id"])
    return {
        image["id"]: (number, image["height"], image["width"])
        for number, image in enumerate(ordered, start=1)
    }
