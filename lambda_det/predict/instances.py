"""A model's instances, as COCO's results and as what is drawn of them."""

from __future__ import annotations

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from lambda_det.evaluation.drawn_objects import DrawnObject, colour_of_class, draw_objects
from lambda_det.predict.class_names import ClassNames

_READABLE = 400  # pixels; a smaller picture is enlarged, or its labels could not be read


def at_least(instances: Instances, threshold: float) -> Instances:
    """Those with that score or more."""
    return instances[instances.scores >= threshold]


def coco_results(instances: Instances, image_id: int, classes: ClassNames) -> list[dict]:
    """Entries of a COCO results json: boxes x, y, width, height in pixels, masks as RLE."""
    entries = instances_to_coco_json(instances, image_id)
    for entry in entries:
        entry["category_id"] = classes.ids[entry["category_id"]]
    return entries


def drawing(
    image: np.ndarray, instances: Instances, classes: ClassNames, *, same_size: bool = False
) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) BGR uint8 with boxes, masks, names and scores.

    A picture below 400 pixels is enlarged, unless ``same_size``.
    """
    objects = []
    for index in instances.scores.argsort().tolist():  # the best is drawn last
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
