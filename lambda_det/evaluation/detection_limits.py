"""How many detections of an image count, and the AP that this leaves possible."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
from pycocotools.cocoeval import Params

from lambda_det.errors import InputError
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)

COCO_LIMIT = 100
"""COCO counts as many detections of each class in an image."""


def check_limit(name: str, value: object) -> None:
    """Check a number of detections.

    Raises:
        InputError: it is neither a whole number nor -1. ``name`` is the user's name of it.
    """
    if type(value) is not int or value < -1:
        raise InputError(
            f"{name}={value!r}: expected a whole number (COCO's {COCO_LIMIT} count at least), -1 "
            "for all"
        )


def counted_detections(detections: Detections, most: int) -> list[int]:
    """Return the limits of an evaluation, for ``COCOeval.params.maxDets``.

    Args:
        detections: what is evaluated.
        most: number of detections of a class in an image that count for AP; COCO's 100 count in
            any case; -1 = all.

    Returns:
        COCO's own 1, 10 and 100, and after them a larger one if there are detections for it.
    """
    found = detections.most_of_a_class
    limit = found if most == -1 else min(most, found)
    return [1, 10, COCO_LIMIT, *([limit] if limit > COCO_LIMIT else [])]


def warn_of_limit(ground_truth: GroundTruth, limit: int = COCO_LIMIT) -> None:
    """Log one warning if there are more objects of a class in an image than detections count.

    Args:
        ground_truth: the annotations; they have boxes.
        limit: number of detections of a class in an image that count.
    """
    objects = Counter(
        (one["image_id"], one["category_id"])
        for one in ground_truth.coco("bbox").anns.values()
        if not one["iscrowd"]
    )
    crowded = {image for (image, _), number in objects.items() if number > limit}
    if crowded:
        logger.warning(
            "%s: %d of %d images have more than %d objects of one class (up to %d): COCO counts "
            "the best %d detections of a class in an image, so the AP is at most %.1f; "
            "--max-detections N counts N of them (-1: all)",
            ground_truth.source, len(crowded), len(ground_truth.images), limit,
            max(objects.values()), limit, _best_possible(objects, limit),
        )  # fmt: skip


def _best_possible(objects: Counter[tuple[int, int]], limit: int) -> float:
    """The AP in percent if every detection that counts is right, from (image, class) -> number of
    objects."""
    total: Counter[int] = Counter()
    found: Counter[int] = Counter()
    for (_, category_id), number in objects.items():
        total[category_id] += number
        found[category_id] += min(number, limit)
    recalls = Params("bbox").recThrs  # precision is 1 up to the recall and 0 beyond it
    reached = [np.mean(recalls <= found[category_id] / total[category_id]) for category_id in total]
    return 100 * float(np.mean(reached))
