"""detectron2's ``Instances`` as entries of a COCO results json, and as a drawing."""

from __future__ import annotations

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from lambda_det.evaluation.class_names import ClassNames
from lambda_det.evaluation.drawn_objects import DrawnObject, colour_of_class, draw_objects

_READABLE = 400  # pixels; a smaller image is enlarged so that its labels are readable


def at_least(instances: Instances, threshold: float) -> Instances:
    """Keep the instances whose score is at least ``threshold``."""
    return instances[instances.scores >= threshold]


def coco_results(instances: Instances, image_id: int, classes: ClassNames) -> list[dict]:
    """Convert instances to the entries of a COCO results json.

    Boxes become x, y, width, height in pixels, and masks become compressed RLE.

    Args:
        instances: predictions of one image, on the CPU.
        image_id: id of the image in the json.
        classes: gives the ``category_id`` of each class.
    """
    entries = instances_to_coco_json(instances, image_id)
    for entry in entries:
        entry["category_id"] = classes.ids[entry["category_id"]]
    return entries


def drawing(
    image: np.ndarray, instances: Instances, classes: ClassNames, *, same_size: bool = False
) -> np.ndarray:
    """Draw boxes, masks, class names and scores on a copy of an image.

    Args:
        image: (H, W, 3) uint8 BGR.
        instances: predictions for this image, on the CPU.
        classes: names of the classes.
        same_size: whether to keep the size. Otherwise, an image whose sides are both below 400
            pixels is enlarged.

    Returns:
        The drawing (H, W, 3) uint8 BGR.
    """
    objects = []
    for index in instances.scores.argsort().tolist():  # the highest score is drawn last, on top
        one = instances[index]
        x0, y0, x1, y1 = one.pred_boxes.tensor[0].tolist()
        number = int(one.pred_classes)
        objects.append(
            DrawnObject(
                box=(x0, y0, x1 - x0, y1 - y0),
                mask=one.pred_masks[0].numpy() if one.has("pred_masks") else None,
                label=f"{classes.names[number]} {float(one.scores):.2f}",
                colour=colour_of_class(number),
            )
        )
    small = max(image.shape[:2]) < _READABLE and not same_size
    return draw_objects(image, objects, longest=_READABLE if small else None)
