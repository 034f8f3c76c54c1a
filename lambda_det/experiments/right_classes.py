"""Of the objects of a set, how many a detector finds and names right: where AP is low, this tells
whether it is for the boxes or for the classes."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.evaluation.detections import read_detections
from lambda_det.records import read_text

IOU = 0.5


def right_class_percent(annotations: str, detections: str) -> float | None:
    """Percentage of the objects whose most confident detection at box IoU :data:`IOU`, of whatever
    class, has their class. One that no detection meets is not right.

    Args:
        annotations: a COCO json; crowd regions do not count.
        detections: a COCO results json.

    Returns:
        None where there is but one class, or no object.

    Raises:
        InputError: a file cannot be read.
    """
    truth = json.loads(read_text(annotations))
    objects = [each for each in truth["annotations"] if not each.get("iscrowd")]
    if len(truth["categories"]) < 2 or not objects:
        return None
    of_image: dict[object, list[dict]] = defaultdict(list)
    for detection in read_detections(detections):
        of_image[detection["image_id"]].append(detection)
    right = 0
    for each in objects:
        found = of_image[each["image_id"]]
        if not found:
            continue
        boxes = np.array([detection["bbox"] for detection in found], float)
        overlap = mask_util.iou(boxes, np.array([each["bbox"]], float), [0])[:, 0]
        meeting = [d for d, iou in zip(found, overlap, strict=True) if iou >= IOU]
        if meeting:
            best = max(meeting, key=lambda detection: detection["score"])
            right += best["category_id"] == each["category_id"]
    return 100 * right / len(objects)
