"""Of the objects of a set, how many a detector finds, and how many it finds and names right: where
AP is low, the two tell whether it is for the boxes or for the classes."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.evaluation.detections import read_detections
from lambda_det.records import read_text

IOU = 0.5
FOUND, RIGHT_CLASS = "found_percent", "right_class_percent"
"""Columns: see :func:`objects_found`."""


def objects_found(annotations: str, detections: str) -> dict[str, float]:
    """:data:`FOUND`: the percentage of the objects that some detection meets at box IoU
    :data:`IOU`, whatever its class and score. :data:`RIGHT_CLASS`: that of the objects whose most
    confident such detection has their class; one that is not found is not right.

    Args:
        annotations: a COCO json; crowd regions do not count.
        detections: a COCO results json.

    Returns:
        Nothing where there is but one class, or no object.

    Raises:
        InputError: a file cannot be read.
    """
    truth = json.loads(read_text(annotations))
    objects = [each for each in truth["annotations"] if not each.get("iscrowd")]
    if len(truth["categories"]) < 2 or not objects:
        return {}
    of_image: dict[object, list[dict]] = defaultdict(list)
    for detection in read_detections(detections):
        of_image[detection["image_id"]].append(detection)
    found = right = 0
    for each in objects:
        there = of_image[each["image_id"]]
        if not there:
            continue
        boxes = np.array([detection["bbox"] for detection in there], float)
        overlap = mask_util.iou(boxes, np.array([each["bbox"]], float), [0])[:, 0]
        meeting = [d for d, iou in zip(there, overlap, strict=True) if iou >= IOU]
        if meeting:
            best = max(meeting, key=lambda detection: detection["score"])
            found += 1
            right += best["category_id"] == each["category_id"]
    return {FOUND: 100 * found / len(objects), RIGHT_CLASS: 100 * right / len(objects)}
