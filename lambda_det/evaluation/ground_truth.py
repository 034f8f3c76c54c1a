"""The annotations that detections are evaluated on, checked and indexed for pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from pycocotools.coco import COCO

from lambda_det.data.coco_json import parse_coco_json, summarize_coco
from lambda_det.data.rle import compress, first_broken
from lambda_det.errors import InputError


class GroundTruth:
    """The annotations that detections are evaluated on.

    Images and annotations get new ids from 1 on; images are numbered in the order of their ids.
    pycocotools would count an annotation with id 0 as never detected.

    Args:
        content: a parsed COCO instances json; it is not changed.
        source: path of the json, for messages.

    Attributes:
        categories: ``(id, name)`` pairs sorted by id.
        images: map from the json's image id to (new id, height, width).
        has_masks: whether all annotations have a mask; True if there are no annotations.
        num_keypoints: number of keypoints of the objects; 0 if no annotation has any, or if they
            have different numbers.

    Raises:
        InputError: the json is not in COCO's instances format; an id is unknown or occurs twice; a
            number is not finite; ``area`` or ``iscrowd`` is missing; or some annotations have a
            mask and others have none.
    """

    def __init__(self, content: dict, source: str) -> None:
        summary = summarize_coco(content, source)
        self.source = source
        self.categories = summary.categories
        self.images = _numbered_images(content["images"])
        self._annotations = content["annotations"]
        if summary.unevaluable is not None:
            raise InputError(
                f"annotation file {source}: annotation id {summary.unevaluable} has no number "
                "'area' or no 'iscrowd' of 0 or 1, which COCO's evaluation needs"
            )
        masked = [bool(annotation.get("segmentation")) for annotation in self._annotations]
        self.has_masks = all(masked)
        counts = {len(a["keypoints"]) // 3 for a in self._annotations if a.get("keypoints")}
        self.num_keypoints = counts.pop() if len(counts) == 1 else 0
        if any(masked) and not self.has_masks:
            lacking = self._annotations[masked.index(False)]["id"]
            raise InputError(
                f"annotation file {source}: annotation id {lacking} has no segmentation, "
                f"{sum(masked)} others have one; all annotations or none must have it"
            )

    @classmethod
    def from_file(cls, path: str) -> GroundTruth:
        """Read a COCO instances json.

        Raises:
            InputError: as the class, or the file cannot be read.
        """
        return cls(parse_coco_json(path), path)

    def coco(self, task: str) -> COCO:
        """pycocotools' index of the annotations for ``"bbox"``, ``"segm"`` or ``"keypoints"``; it
        is made once."""
        if task == "keypoints":
            return self._keypoints
        return self._masks if task == "segm" else self._boxes

    @cached_property
    def _boxes(self) -> COCO:
        return self._index([{} for _ in self._annotations])

    @cached_property
    def _masks(self) -> COCO:
        # Polygons are rasterised once here; an evaluation would do it again each time.
        codes = compressed_masks(
            self._annotations,
            self.images,
            lambda _, annotation: (
                f"annotation file {self.source}: the segmentation of annotation id "
                f"{annotation['id']}"
            ),
            skip_short_polygons=True,
        )
        return self._index([{"segmentation": code} for code in codes])

    @cached_property
    def _keypoints(self) -> COCO:
        # Like an object without a visible keypoint, one without keypoints does not count.
        none = [0] * 3 * self.num_keypoints
        points = [annotation.get("keypoints") or none for annotation in self._annotations]
        return self._index(
            [
                {
                    "keypoints": values,
                    "num_keypoints": annotation.get(
                        "num_keypoints", sum(visible > 0 for visible in values[2::3])
                    ),
                }
                for annotation, values in zip(self._annotations, points, strict=True)
            ]
        )

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


def compressed_masks(
    entries: Sequence[dict],
    images: Mapping[object, tuple[int, int, int]],
    name_of: Callable[[int, dict], str],
    *,
    hint: str = "",
    skip_short_polygons: bool = False,
) -> list[dict]:
    """Convert the masks of annotations or detections to compressed RLE.

    Args:
        entries: dicts with ``image_id`` and ``segmentation``.
        images: as :attr:`GroundTruth.images`.
        name_of: returns the name of a segmentation for messages, from its index and its entry.
        hint: end of the message about a mask that does not fit its image.
        skip_short_polygons: whether polygons of fewer than three points are left out.

    Raises:
        InputError: a mask is damaged or of another size than its image.
    """
    codes = []
    for index, entry in enumerate(entries):
        _, height, width = images[entry["image_id"]]
        try:
            code = compress(
                entry["segmentation"], height, width, skip_short_polygons=skip_short_polygons
            )
        except ValueError as error:
            raise InputError(f"{name_of(index, entry)} {error}{hint}") from error
        codes.append(code)
    if (broken := first_broken(codes)) is not None:
        raise InputError(f"{name_of(broken, entries[broken])} is not a complete RLE of its image")
    return codes


def coco_index(ground_truth: GroundTruth, annotations: list[dict]) -> COCO:
    """Make pycocotools' ``COCO`` index of annotations or detections, without its printed output.

    Args:
        ground_truth: gives the images and categories.
        annotations: annotations or detections as pycocotools takes them, with the new image ids.
    """
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
