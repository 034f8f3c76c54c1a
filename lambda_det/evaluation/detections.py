"""Detections in COCO's results format, checked against the ground truth."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from lambda_det.data.reading.values import check_box, is_finite, is_in, shown
from lambda_det.errors import InputError
from lambda_det.evaluation.ground_truth import GroundTruth, coco_index, compressed_masks
from lambda_det.io import read_json

logger = logging.getLogger(__name__)

_REQUIRED = ("image_id", "category_id", "score")
_LARGEST_SCORE = 1 + 1e-6  # a softmax of float32 rounds to more than 1


def read_detections(path: str) -> list:
    """Read the entries of a ``coco_instances_results.json``; they are not checked here.

    Raises:
        InputError: the file cannot be read, is not valid JSON (it may be truncated), or is not a
            list.
    """
    content = read_json(path, called="predictions")
    if not isinstance(content, list):
        raise InputError(
            f"predictions {path} is not in COCO's results format: its top level is a "
            f"{type(content).__name__}, not a list of detections"
        )
    return content


class Detections:
    """Detections that have passed the checks.

    Args:
        entries: dicts with ``image_id``, ``category_id``, ``score`` (0 to 1; what is above it by
            rounding, up to 1 + 1e-6, is taken as 1), and ``bbox`` (x, y,
            width, height in pixels), ``segmentation`` (polygons, RLE or compressed RLE) or
            ``keypoints`` (x, y, score of each in pixels), or several of these. They are not
            changed. If they have no boxes, the boxes around the masks are taken.
        ground_truth: the annotations that the detections are evaluated on.
        source: name of the detections in messages, such as ``predictions P.json``.

    Attributes:
        tasks: the tasks that the detections can be evaluated on: ``"bbox"``, ``"segm"`` if
            annotations and detections have masks, and ``"keypoints"`` if both have keypoints.
            Without any detection, the tasks of the annotations. Detections that have keypoints
            only are not evaluated on ``"bbox"``.

    Raises:
        InputError: an entry does not have this form, names an unknown image or category, has a
            number that is not finite or out of range, or a mask that is damaged or of another
            size; or some entries have a mask (or a box) and others have none.
    """

    def __init__(self, entries: Sequence[dict], ground_truth: GroundTruth, source: str) -> None:
        self._ground_truth = ground_truth
        self._source = source
        self._entries = entries
        categories = {category_id for category_id, _ in ground_truth.categories}
        for index, entry in enumerate(entries):
            self._check(index, entry, categories)
        if rounded := sum(entry["score"] > 1 for entry in entries):
            logger.warning("%s: %d scores are above 1 by rounding; 1 is taken", source, rounded)
        self._has_boxes = self._all_or_none("bbox")
        self._codes = self._compressed() if self._all_or_none("segmentation") else None
        has_keypoints = self._all_or_none("keypoints")
        if entries and not (self._has_boxes or self._codes or has_keypoints):
            raise InputError(f"{source}: entry 0 has neither bbox, segmentation nor keypoints")
        self._boxes: list = []
        if self._has_boxes:
            self._boxes = [entry["bbox"] for entry in entries]
            self._warn_of_corners()
        elif self._codes:
            logger.info("%s have no bbox; the boxes around the masks are taken", source)
            self._boxes = [mask_util.toBbox(code).tolist() for code in self._codes]
        elif has_keypoints:
            self._boxes = [box_of_keypoints(entry["keypoints"]) for entry in entries]
        masks = ground_truth.has_masks and (self._codes is not None or not entries)
        keypoints = ground_truth.num_keypoints > 0 and (has_keypoints or not entries)
        only_keypoints = has_keypoints and not self._has_boxes and self._codes is None
        found = {"bbox": not only_keypoints, "segm": masks, "keypoints": keypoints}
        self.tasks = tuple(task for task, is_there in found.items() if is_there)
        if not self.tasks:
            raise InputError(f"{source} are keypoints only, but {ground_truth.source} has none")
        if self._codes is not None and not masks:
            logger.info("%s has no masks; the boxes alone are evaluated", ground_truth.source)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_images(self) -> int:
        """Number of images with at least one detection."""
        return len({entry["image_id"] for entry in self._entries})

    @property
    def most_of_a_class(self) -> int:
        """The largest number of detections of one class in one image."""
        pairs = Counter((entry["image_id"], entry["category_id"]) for entry in self._entries)
        return max(pairs.values(), default=0)

    def coco(self, task: str) -> COCO:
        """Make pycocotools' index of the detections for ``"bbox"``, ``"segm"`` or ``"keypoints"``.

        COCO's size ranges need an area. It is that of the mask for ``"segm"`` and that of the box
        for the others, as in detectron2's evaluator and COCO's server. If the detections have no
        boxes, it is that of the mask for all, as in pycocotools' ``loadRes``.
        """
        if task == "segm" or not (self._has_boxes or self._codes is None):
            # One by one, because pycocotools 2.0.11 fails on more than 255 at once with numpy 2.
            areas = [int(mask_util.area(code)) for code in self._codes or []]
        else:
            areas = [box[2] * box[3] for box in self._boxes]
        parts: list[dict] = [
            {"score": min(entry["score"], 1), "area": area, "iscrowd": 0}
            for entry, area in zip(self._entries, areas, strict=True)
        ]
        for index, part in enumerate(parts):
            if task == "segm":
                part["segmentation"] = (self._codes or [])[index]
            else:
                part["bbox"] = self._boxes[index]
            if task == "keypoints":
                part["keypoints"] = self._entries[index]["keypoints"]
        return coco_index(self._ground_truth, self._entries, parts)

    def _check(self, index: int, entry: object, categories: set[int]) -> None:
        where = f"{self._source}: entry {index}"
        if not isinstance(entry, dict) or any(key not in entry for key in _REQUIRED):
            raise InputError(f"{where} lacks one of {', '.join(_REQUIRED)}")
        if not is_in(entry["image_id"], self._ground_truth.images):
            raise InputError(
                f"{where} has image_id {shown(entry['image_id'])}, which is not among the "
                f"{len(self._ground_truth.images)} images of {self._ground_truth.source}; are "
                "the predictions of another dataset?"
            )
        if not is_in(entry["category_id"], categories):
            raise InputError(
                f"{where} has category_id {shown(entry['category_id'])}, which is not among the "
                f"{len(categories)} categories of {self._ground_truth.source}; are the "
                "predictions of another dataset?"
            )
        if not is_finite(entry["score"]) or not 0 <= entry["score"] <= _LARGEST_SCORE:
            raise InputError(f"{where} has score {shown(entry['score'])}; 0 to 1 is allowed")
        if box := entry.get("bbox"):
            check_box(where, box)

        points = entry.get("keypoints")
        count = self._ground_truth.num_keypoints
        if points and not (
            isinstance(points, list)
            and all(map(is_finite, points))
            and len(points) == 3 * (count or len(points) // 3)
        ):
            raise InputError(
                f"{where} has keypoints {shown(points)}; finite numbers x, y, score of each of the "
                f"{count or ''} keypoints are needed"
            )

    def _all_or_none(self, key: str) -> bool:
        """Whether the entries have ``key``, where an empty value counts as none.

        Raises:
            InputError: some have it and others have not.
        """
        having = [bool(entry.get(key)) for entry in self._entries]
        if any(having) and not all(having):
            raise InputError(
                f"{self._source}: entry {having.index(False)} has no {key}, {sum(having)} others "
                "have one; all entries or none must have it"
            )
        return any(having)

    def _compressed(self) -> list[dict]:
        """Convert the masks of all entries to compressed RLE."""
        return compressed_masks(
            self._entries,
            self._ground_truth.images,
            lambda index, _: f"{self._source}: the segmentation of entry {index}",
            hint="; are the predictions of another dataset?",
        )

    def _warn_of_corners(self) -> None:
        """Warn of boxes that seem to be two corners, or of larger images: their AP would be 0."""
        beyond = 0
        for entry in self._entries:
            x, y, box_width, box_height = entry["bbox"]
            _, height, width = self._ground_truth.images[entry["image_id"]]
            beyond += x + box_width > 1.05 * width + 1 or y + box_height > 1.05 * height + 1
        if beyond > 0.1 * len(self._entries):
            logger.warning(
                "%s: %d of %d boxes reach beyond their image; are they x, y, width, height in "
                "pixels of these images?",
                self._source, beyond, len(self._entries),
            )  # fmt: skip


def box_of_keypoints(keypoints: Sequence[float]) -> list[float]:
    """Return the box (x, y, width, height) around keypoints (x, y and a third number of each)."""
    x, y = keypoints[0::3], keypoints[1::3]
    return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
