"""Where a detector errs: of the objects that it finds, how many it also names."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from lambda_det.evaluation.detections import read_detections

IOU = 0.5


def right_class_percent(annotations: str, detections: str) -> float | None:
    """Of the objects that some detection meets at box IoU :data:`IOU`, whatever its class, the
    percentage whose most confident such detection has their class.

    Args:
        annotations: a COCO json; crowd regions do not count.
        detections: a COCO results json.

    Returns:
        None where there is but one class, or no object is found.

    Raises:
        InputError: the detections cannot be read.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
    if len(truth.cats) < 2:
        return None
    of_image: dict[object, list[dict]] = defaultdict(list)
    for detection in read_detections(detections):
        of_image[detection["image_id"]].append(detection)
    found = right = 0
    for image_id, found_there in of_image.items():
        objects = [a for a in truth.imgToAnns[image_id] if not a.get("iscrowd")]
        if not objects:
            continue
        boxes = (np.array([each["bbox"] for each in of], float) for of in (found_there, objects))
        overlap = np.asarray(mask_util.iou(*boxes, [0] * len(objects)))
        scores = np.array([each["score"] for each in found_there])
        for column, each in zip(overlap.T, objects, strict=True):
            meeting = np.flatnonzero(column >= IOU)
            if len(meeting):
                best = found_there[meeting[scores[meeting].argmax()]]
                found += 1
                right += best["category_id"] == each["category_id"]
    return 100 * right / found if found else None
