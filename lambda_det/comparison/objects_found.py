"""How many objects a run has found, and found with their class, whatever the score."""

from __future__ import annotations

import logging
import os
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util

from lambda_det.comparison.examples import IOU, validation_set
from lambda_det.comparison.results import FOUND, RIGHT_CLASS, built_config
from lambda_det.comparison.run import Run
from lambda_det.errors import reason_of
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.evaluation.detections import read_detections
from lambda_det.io import read_json

logger = logging.getLogger(__name__)


def found_by(run: Run) -> dict[str, float]:
    """:func:`objects_found` by a run on the dataset it is evaluated on; {}, with a warning, if they
    cannot be counted."""
    try:
        cfg = built_config(run.folder)
        if not cfg.DATASETS.TEST:
            return {}
        annotations, _ = validation_set(cfg)
        path = os.path.join(run.folder, "inference", DETECTIONS_FILE)
        return objects_found(annotations, path)
    except Exception as error:  # no error of a mere remark may cost a training
        logger.warning(
            "%s: how many objects were found is not known (%s)", run.name, reason_of(error)
        )
        return {}


def objects_found(annotations: str, detections: str) -> dict[str, float]:
    """Count the objects that were found, and those that were found with their class.

    :data:`FOUND` is the percentage of the objects that some detection meets at box IoU :data:`IOU`,
    whatever its class and score. :data:`RIGHT_CLASS` is the percentage of the objects whose most
    confident such detection has their class; an object that is not found does not count as right.

    Args:
        annotations: path of a COCO json; crowd regions do not count.
        detections: path of a COCO results json.

    Returns:
        The two percentages; {} if the dataset has a single class, or no object.

    Raises:
        InputError: a file cannot be read.
    """
    truth = read_json(annotations)
    objects = [each for each in truth["annotations"] if not each.get("iscrowd")]
    if len(truth["categories"]) < 2 or not objects:
        return {}
    of_image: dict[object, list[dict]] = defaultdict(list)
    for detection in read_detections(detections):
        of_image[detection["image_id"]].append(detection)
    found = right = 0
    for each in objects:
        in_image = of_image[each["image_id"]]
        if not in_image:
            continue
        boxes = np.array([detection["bbox"] for detection in in_image], float)
        overlap = mask_util.iou(boxes, np.array([each["bbox"]], float), [0])[:, 0]
        meeting = [d for d, iou in zip(in_image, overlap, strict=True) if iou >= IOU]
        if meeting:
            best = max(meeting, key=lambda detection: detection["score"])
            found += 1
            right += best["category_id"] == each["category_id"]
    return {FOUND: 100 * found / len(objects), RIGHT_CLASS: 100 * right / len(objects)}
