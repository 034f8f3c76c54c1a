"""Why an AP is 0: what the detections themselves show, in one line."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)

ZERO_AP = 1.0
"""Percent. Below it a detector has found next to nothing, or by chance."""

_IOU = 0.5
_MOST_IMAGES = 500  # that are looked at
_MOST_DETECTIONS = 100  # of an image, the best ones, as COCO counts them
_CLEAR = 0.2  # share of the objects, from which on a pattern is no chance
_SAME_FACTOR = 0.08  # of the logarithm: how far the four factors of a pair of boxes may lie apart


def warn_of_zero(
    results: Mapping[str, Mapping], ground_truth: GroundTruth, detections: Detections, source: str
) -> None:
    """Log one warning where the box AP is 0 (below :data:`ZERO_AP`).

    Args:
        results: of :func:`~lambda_det.evaluation.counting.count`.
        ground_truth, detections: what was counted.
        source: name of the detections in the line.
    """
    average = results.get("bbox", {}).get("AP")
    if average is not None and average < ZERO_AP:
        reason = diagnose_zero(ground_truth, detections)
        logger.warning("%s: the box AP is %.2g: %s", source, average, reason)


def diagnose_zero(ground_truth: GroundTruth, detections: Detections) -> str:
    """The likely reason for an AP of 0, with the figures that speak for it.

    Looks at boxes, for the objects of at most 500 images: is there an overlapping detection of
    another class (the order of the classes), is there one when the boxes are read as corners, as
    relative or as scaled by one factor (the form of the boxes), and how sure is the model.

    Args:
        ground_truth: the annotations.
        detections: what was judged by them.

    Returns:
        One line without the name of the dataset.
    """
    if not len(detections):
        return (
            "there is no detection: no score was above the model's threshold "
            "(MODEL.ROI_HEADS.SCORE_THRESH_TEST, MODEL.RETINANET.SCORE_THRESH_TEST); are these "
            "trained weights, and did the loss fall?"
        )
    pictures = list(itertools.islice(_pictures(ground_truth, detections), _MOST_IMAGES))
    num_objects = sum(len(picture.objects) for picture in pictures)
    if not num_objects:
        return "no image has an object that is not a crowd region"
    seen = _Overlaps()
    for picture in pictures:
        seen.add(picture, picture.found)
    figures = (
        f"{len(detections)} detections on {detections.num_images} of {len(ground_truth.images)} "
        f"images, highest score {max(p.best_score for p in pictures):.2g}"
    )
    names = dict(ground_truth.categories)
    any_class, same_class = (
        f"{100 * hits / num_objects:.0f} %" for hits in (seen.any_class, seen.same_class)
    )
    figures += f"; {any_class} of the objects have a detection over them (IoU >= {_IOU})"
    if seen.any_class >= _CLEAR * num_objects and seen.same_class < 0.1 * seen.any_class:
        (found, true), count = seen.confused.most_common(1)[0]
        return (
            f"{figures}, but {same_class} one of their class; most often {names[true]!r} is found "
            f"as {names[found]!r} ({count} times): is the order of the classes (categories of the "
            "json, sorted by id) the one of the training?"
        )
    reading, hits = _best_reading(pictures)
    if hits >= max(_CLEAR * num_objects, 5 * seen.any_class):
        return (
            f"{figures}, but {100 * hits / num_objects:.0f} % if the boxes are {reading}: boxes "
            "must be x, y, width, height in pixels of the image as it is stored"
        )
    return (
        f"{figures}, {same_class} one of their class: not trained for long enough, or a learning "
        "rate that is far off"
    )


@dataclass(frozen=True)
class _Picture:
    """Objects (n, 4) and detections (m, 4) of one image as x, y, width, height, with classes."""

    size: tuple[int, int]
    objects: np.ndarray
    classes: np.ndarray
    found: np.ndarray
    found_classes: np.ndarray
    best_score: float


@dataclass
class _Overlaps:
    """Counts objects that a detection overlaps."""

    any_class: int = 0
    same_class: int = 0
    confused: Counter = field(default_factory=Counter)

    def add(self, picture: _Picture, boxes: np.ndarray) -> None:
        """Count the objects of a picture that ``boxes``, of its detections, overlap."""
        if not len(picture.objects) or not len(boxes):
            return
        iou = _iou(boxes, picture.objects)
        same = picture.found_classes[:, None] == picture.classes[None]
        self.any_class += int((iou.max(axis=0) >= _IOU).sum())
        self.same_class += int((np.where(same, iou, 0).max(axis=0) >= _IOU).sum())
        for index, best in enumerate(iou.argmax(axis=0)):
            if iou[best, index] >= _IOU and not same[best, index]:
                pair = int(picture.found_classes[best]), int(picture.classes[index])
                self.confused[pair] += 1


def _pictures(ground_truth: GroundTruth, detections: Detections) -> Iterator[_Picture]:
    """The images with an object, in order."""
    truth, found = ground_truth.coco("bbox"), detections.coco("bbox")
    for number, height, width in ground_truth.images.values():
        objects = [a for a in truth.imgToAnns.get(number, ()) if not a["iscrowd"]]
        if not objects:
            continue
        entries = sorted(found.imgToAnns.get(number, ()), key=lambda e: -e["score"])
        entries = entries[:_MOST_DETECTIONS]
        yield _Picture(
            size=(height, width),
            objects=_boxes(objects),
            classes=np.array([a["category_id"] for a in objects], dtype=np.int64),
            found=_boxes(entries),
            found_classes=np.array([e["category_id"] for e in entries], dtype=np.int64),
            best_score=entries[0]["score"] if entries else 0.0,
        )


def _best_reading(pictures: list[_Picture]) -> tuple[str, int]:
    """The other meaning of the boxes that overlaps most objects, and how many."""
    readings = {
        "read as corners x1, y1, x2, y2": lambda p: _as_corners(p.found),
        "read as relative to the image's size": lambda p: p.found * (p.size[::-1] * 2),
    }
    factor = _common_factor(pictures)
    if factor is not None:
        readings[f"divided by {factor:.3g}"] = lambda p: p.found / factor
    hits = {}
    for name, reading in readings.items():
        overlaps = _Overlaps()
        for picture in pictures:
            overlaps.add(picture, reading(picture))
        hits[name] = overlaps.any_class
    best = max(hits, key=lambda name: hits[name])
    return best, hits[best]


def _as_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clip(min=0)], axis=1)


def _common_factor(pictures: list[_Picture]) -> float | None:
    """By what factor detections are larger than objects, as most pairs of an image have it.

    A pair counts where centre and size, in both directions, give the same factor.
    """
    votes = [np.zeros(0)]
    for picture in pictures:
        objects, found = (
            boxes[(boxes[:, 2:] > 0).all(axis=1)] for boxes in (picture.objects, picture.found)
        )
        logs = [
            np.log(np.concatenate([b[:, :2] + b[:, 2:] / 2, b[:, 2:]], axis=1).clip(min=1e-6))
            for b in (objects, found)
        ]
        factors = (logs[1][:, None] - logs[0][None]).reshape(-1, 4)
        same = np.ptp(factors, axis=1) <= 2 * _SAME_FACTOR
        votes.append(factors[same].mean(axis=1))
    ordered = np.sort(np.concatenate(votes))
    if not len(ordered):
        return None
    ends = np.searchsorted(ordered, ordered + _SAME_FACTOR, side="right")
    counts = ends - np.arange(len(ordered))
    start = int(counts.argmax())
    return float(np.exp(np.median(ordered[start : ends[start]])))


def _boxes(entries: list[dict]) -> np.ndarray:
    return np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)


def _iou(found: np.ndarray, objects: np.ndarray) -> np.ndarray:
    return mask_util.iou(found, objects, np.zeros(len(objects), dtype=np.uint8))
