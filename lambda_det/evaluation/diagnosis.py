"""Finds the likely reason for an AP of 0 in the detections and states it in one line."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.data.reading.display_names import display_names
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)

ZERO_AP = 1.0
"""AP in percent. With a lower AP a detector has found almost nothing, or hits by chance."""

_IOU = 0.5
_MOST_IMAGES = 500  # the largest number of images that are examined
_MOST_DETECTIONS = 100  # the best detections of an image; COCO counts as many
_CLEAR = 0.2  # a pattern in at least this share of the objects is not chance
_CONFIDENT = 0.5  # the score from which a detection is one that a trained model stands by
_WELL_MATCHED = 0.75  # the IoU of a pair that shows how the boxes are meant
_LEAST_PAIRS = 50  # fewer of them may be chance: a network that has learned nothing has some, too
_SAME_FACTOR = 0.08  # tolerance of the logarithms of the four factors of a pair of boxes


def warn_of_zero(
    results: Mapping[str, Mapping], ground_truth: GroundTruth, detections: Detections, source: str
) -> None:
    """Log one warning if the box AP is 0 (below :data:`ZERO_AP`).

    Args:
        results: what :func:`~lambda_det.evaluation.counting.count` returned.
        ground_truth, detections: its arguments.
        source: name of the detections at the start of the warning.
    """
    average = results.get("bbox", {}).get("AP")
    if average is not None and average < ZERO_AP:
        reason = diagnose_zero(ground_truth, detections)
        logger.warning("%s: the box AP is %.2g: %s", source, average, reason)


def diagnose_zero(ground_truth: GroundTruth, detections: Detections) -> str:
    """Find the likely reason for an AP of 0, and give the numbers that support it.

    The function compares boxes in at most 500 images that have an object. If most objects overlap
    with a confident detection of another class, the order of the classes is wrong. If at least 50
    objects, and a clear share of all, match a confident detection well only when the detections'
    boxes are read as corners, as relative to the image or as scaled by a common factor, the format
    of the boxes is wrong. Otherwise the model has not learned: a network after a few iterations has
    detections everywhere, some of which fit any reading.

    Args:
        ground_truth: the annotations.
        detections: the detections that were evaluated with them.

    Returns:
        One line, without the name of the dataset.
    """
    if not len(detections):
        return (
            "there is no detection: no score was above the model's threshold "
            "(MODEL.ROI_HEADS.SCORE_THRESH_TEST, MODEL.RETINANET.SCORE_THRESH_TEST). Check that "
            "the weights are trained and that the loss fell during training"
        )
    images = list(itertools.islice(_images(ground_truth, detections), _MOST_IMAGES))
    num_objects = sum(len(image.objects) for image in images)
    if not num_objects:
        return "no image has an object that is not a crowd region"
    hits, right, _ = _overlaps(images, lambda image: image.found)
    figures = (
        f"{len(detections)} detections on {detections.num_images} of {len(ground_truth.images)} "
        f"images, highest score {max(image.scores.max(initial=0) for image in images):.2g}"
    )
    ids = [number for number, _ in ground_truth.categories]
    names = dict(zip(ids, display_names(ground_truth.categories), strict=True))
    any_class, same_class = (f"{100 * count / num_objects:.0f} %" for count in (hits, right))
    figures += f"; {any_class} of the objects have an overlapping detection (IoU >= {_IOU})"
    confident = [_confident(image) for image in images]
    sure_hits, _, confused = _overlaps(confident, lambda image: image.found)
    if sure_hits >= _CLEAR * num_objects and right < 0.1 * hits:
        (found, true), count = confused.most_common(1)[0]
        return (
            f"{figures}, but only {same_class} have one of their class; most often "
            f"{names[true]!r} is detected as {names[found]!r} ({count} times). Check that the "
            "order of the classes (categories of the json, sorted by id) is the one of the training"
        )
    reading, more_hits = _likely_reading(confident, num_objects)
    if reading and more_hits >= 5 * hits:
        return (
            f"{figures}, but {100 * more_hits / num_objects:.0f} % do if the boxes are {reading}: "
            "boxes must be x, y, width, height in pixels of the stored image"
        )
    return (
        f"{figures}, and {same_class} have one of their class: the model has not learned, it was "
        "not trained for long enough, or with a wrong learning rate"
    )


@dataclass(frozen=True)
class _Image:
    """The objects and detections of one image.

    Attributes:
        size: height and width in pixels.
        objects: (n, 4), boxes of the objects as x, y, width, height in pixels.
        classes: (n,), their category ids.
        found: (m, 4), boxes of the detections, the best first.
        found_classes: (m,), their category ids.
        scores: (m,).
    """

    size: tuple[int, int]
    objects: np.ndarray
    classes: np.ndarray
    found: np.ndarray
    found_classes: np.ndarray
    scores: np.ndarray


def _overlaps(
    images: list[_Image], boxes_of: Callable[[_Image], np.ndarray], least: float = _IOU
) -> tuple[int, int, Counter]:
    """Count the objects that overlap with a detection.

    Args:
        images: the images.
        boxes_of: returns the boxes (m, 4) of an image's detections.
        least: IoU of boxes that overlap.

    Returns:
        The number of objects that overlap with a detection of any class, the number of those that
        overlap with one of their class, and (class of the detection, class of the object) -> number
        of objects whose best detection is of another class.
    """
    any_class = same_class = 0
    confused: Counter[tuple[int, int]] = Counter()
    for image in images:
        if not len(image.found):
            continue
        crowd = np.zeros(len(image.objects), dtype=np.uint8)
        iou = mask_util.iou(boxes_of(image), image.objects, crowd)
        same = image.found_classes[:, None] == image.classes[None]
        any_class += int((iou.max(axis=0) >= least).sum())
        same_class += int((np.where(same, iou, 0).max(axis=0) >= least).sum())
        for index, best in enumerate(iou.argmax(axis=0)):
            if iou[best, index] >= least and not same[best, index]:
                confused[int(image.found_classes[best]), int(image.classes[index])] += 1
    return any_class, same_class, confused


def _images(ground_truth: GroundTruth, detections: Detections) -> Iterator[_Image]:
    """The images that have an object, in the order of the annotations."""
    truth, found = ground_truth.coco("bbox"), detections.coco("bbox")
    for number, height, width in ground_truth.images.values():
        objects = [a for a in truth.imgToAnns.get(number, ()) if not a["iscrowd"]]
        if not objects:
            continue
        entries = sorted(found.imgToAnns.get(number, ()), key=lambda e: -e["score"])
        entries = entries[:_MOST_DETECTIONS]
        yield _Image(
            size=(height, width),
            objects=_boxes(objects),
            classes=np.array([a["category_id"] for a in objects], dtype=np.int64),
            found=_boxes(entries),
            found_classes=np.array([e["category_id"] for e in entries], dtype=np.int64),
            scores=np.array([e["score"] for e in entries], dtype=np.float64),
        )


def _confident(image: _Image) -> _Image:
    """The image with its confident detections only."""
    count = int((image.scores >= _CONFIDENT).sum())
    return replace(
        image,
        found=image.found[:count],
        found_classes=image.found_classes[:count],
        scores=image.scores[:count],
    )


def _likely_reading(images: list[_Image], num_objects: int) -> tuple[str, int]:
    """The other box format with which most objects match a detection well, and the number of those
    that overlap with one then; "" if the pairs may be chance.

    They are not if there are at least 50, and if they are a clear share both of the objects and of
    the detections, which a network that has learned nothing spreads over the image.

    Args:
        images: with their confident detections.
        num_objects: number of objects of all images.
    """
    readings = {
        "read as corners x1, y1, x2, y2": lambda image: _as_corners(image.found),
        "read as relative to the image's size": lambda image: image.found * (image.size[::-1] * 2),
    }
    factor = _common_factor(images)
    if factor is not None:
        readings[f"divided by {factor:.3g}"] = lambda image: image.found / factor
    pairs = {
        name: _overlaps(images, reading, _WELL_MATCHED)[0] for name, reading in readings.items()
    }
    best = max(pairs, key=lambda name: pairs[name])
    num_detections = sum(len(image.found) for image in images)
    if pairs[best] < max(_LEAST_PAIRS, _CLEAR * num_objects, _CLEAR * num_detections):
        return "", 0
    return best, _overlaps(images, readings[best])[0]


def _as_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clip(min=0)], axis=1)


def _common_factor(images: list[_Image]) -> float | None:
    """The most frequent factor by which a detection is larger than an object of its image.

    A pair of detection and object counts only if x and y of the centre, width and height all give
    about the same factor. The result is None if no pair does.
    """
    votes = [np.zeros(0)]
    for image in images:
        objects, found = (
            boxes[(boxes[:, 2:] > 0).all(axis=1)] for boxes in (image.objects, image.found)
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
