"""The annotations that detections are evaluated on, checked and indexed for pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence

from pycocotools.coco import COCO

from lambda_det.data.reading.coco_json import CocoSet, read_coco
from lambda_det.data.reading.rle import compress, first_broken
from lambda_det.data.reading.values import id_order
from lambda_det.errors import InputError


class GroundTruth:
    """The annotations that detections are evaluated on.

    Images and annotations get new ids from 1 on; images are numbered in the order of their ids.
    pycocotools would count an annotation with id 0 as never detected.

    Args:
        content: the clean content of a COCO json.

    Attributes:
        source: path of the json, for messages.
        categories: ``(id, name)`` pairs sorted by id.
        images: map from the json's image id to (new id, height, width).
        is_labelled: whether the json has annotations, be they none.
        has_masks: whether any object has a mask; True if there are no objects.
        num_keypoints: number of keypoints of the objects; 0 if no annotation has any, or if they
            have different numbers.
    """

    def __init__(self, content: CocoSet) -> None:
        summary, images, self._annotations = content
        self.source = summary.json_file
        self.categories = summary.categories
        self.images = _numbered_images(images)
        self.is_labelled = summary.is_labelled
        self.has_masks = summary.has_masks
        self._indices: dict[str, COCO] = {}
        counts = {len(a["keypoints"]) // 3 for a in self._annotations if a.get("keypoints")}
        self.num_keypoints = counts.pop() if len(counts) == 1 else 0

    @classmethod
    def from_file(cls, path: str) -> GroundTruth:
        """Read a COCO instances json, and log what is mended and left out.

        Raises:
            InputError: as :func:`~lambda_det.data.reading.coco_json.read_coco`.
        """
        content = read_coco(path)
        content.summary.findings.log()
        return cls(content)

    def coco(self, task: str) -> COCO:
        """pycocotools' index of the annotations for ``"bbox"``, ``"segm"`` or ``"keypoints"``; it
        is made once."""
        if task not in self._indices:
            of_task: list[dict] = [{} for _ in self._annotations]
            if task == "segm":
                of_task = self._masks()
            elif task == "keypoints":
                of_task = [self._keypoints_of(annotation) for annotation in self._annotations]
            parts = [
                {key: annotation[key] for key in ("bbox", "area", "iscrowd")} | more
                for annotation, more in zip(self._annotations, of_task, strict=True)
            ]
            self._indices[task] = coco_index(self, self._annotations, parts)
        return self._indices[task]

    def _masks(self) -> list[dict]:
        """The compressed mask of each annotation. Polygons are rasterised once here; an evaluation
        would do it again each time."""
        # Where the mask of an object is not known, a detection is neither right nor wrong: its box
        # is judged as a crowd region is.
        unknown = [not annotation.get("segmentation") for annotation in self._annotations]
        codes = compressed_masks(
            [
                {**a, "segmentation": [_rectangle(a["bbox"], *self.images[a["image_id"]][1:])]}
                if missing
                else a
                for a, missing in zip(self._annotations, unknown, strict=True)
            ],
            self.images,
            lambda _, annotation: (
                f"annotation file {self.source}: the segmentation of annotation id "
                f"{annotation['id']}"
            ),
        )
        return [
            {"segmentation": code, "iscrowd": 1} if missing else {"segmentation": code}
            for code, missing in zip(codes, unknown, strict=True)
        ]

    def _keypoints_of(self, annotation: dict) -> dict:
        # Like an object without a visible keypoint, one without keypoints does not count.
        values = annotation.get("keypoints") or [0] * 3 * self.num_keypoints
        visible = sum(number > 0 for number in values[2::3])
        return {"keypoints": values, "num_keypoints": annotation.get("num_keypoints", visible)}


def compressed_masks(
    entries: Sequence[dict],
    images: Mapping[object, tuple[int, int, int]],
    name_of: Callable[[int, dict], str],
    *,
    hint: str = "",
) -> list[dict]:
    """Convert the masks of annotations or detections to compressed RLE.

    Args:
        entries: dicts with ``image_id`` and ``segmentation``.
        images: as :attr:`GroundTruth.images`.
        name_of: returns the name of a segmentation for messages, from its index and its entry.
        hint: end of the message about a mask that does not fit its image.

    Raises:
        InputError: a mask is damaged or of another size than its image.
    """
    codes = []
    for index, entry in enumerate(entries):
        _, height, width = images[entry["image_id"]]
        try:
            code = compress(entry["segmentation"], height, width)
        except ValueError as error:
            raise InputError(f"{name_of(index, entry)} {error}{hint}") from error
        codes.append(code)
    if (broken := first_broken(codes)) is not None:
        raise InputError(f"{name_of(broken, entries[broken])} is not a complete RLE of its image")
    return codes


def coco_index(ground_truth: GroundTruth, entries: Sequence[dict], parts: Sequence[dict]) -> COCO:
    """Make pycocotools' ``COCO`` index of annotations or detections, without its printed output.

    Args:
        ground_truth: gives the images and categories.
        entries: annotations or detections, of which ``image_id`` and ``category_id`` are taken.
        parts: what else pycocotools needs of each entry.
    """
    annotations = [
        {
            "id": number,
            "image_id": ground_truth.images[entry["image_id"]][0],
            "category_id": entry["category_id"],
            **part,
        }
        for number, (entry, part) in enumerate(zip(entries, parts, strict=True), start=1)
    ]
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
    ordered = sorted(images, key=lambda image: id_order(image["id"]))
    return {
        image["id"]: (number, image["height"], image["width"])
        for number, image in enumerate(ordered, start=1)
    }


def _rectangle(box: Sequence[float], height: int, width: int) -> list[float]:
    """The part of a box that is in an image, as a polygon."""
    x, y = max(0, box[0]), max(0, box[1])
    right, bottom = min(width, box[0] + box[2]), min(height, box[1] + box[3])
    return [x, y, right, y, right, bottom, x, bottom]
