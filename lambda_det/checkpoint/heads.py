"""The heads in a file of weights: their number of classes, and which of them start anew."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lambda_det.backbone.architectures import BOTTOM_UP_PARTS
from lambda_det.checkpoint.coverage import Coverage, Shape, grouped, part_of

# The box classifier of Mask R-CNN, or of the first stage of Cascade R-CNN.
_BOX_CLASSIFIER = re.compile(r"roi_heads\.box_predictor\.(0\.)?cls_score\.weight")


def number_of_classes(shapes: Mapping[str, Shape]) -> int | None:
    """Return the number of classes of a detector; None if it has no classifier of boxes.

    Args:
        shapes: shapes of its tensors, by detectron2's names.
    """
    for name, shape in shapes.items():
        if _BOX_CLASSIFIER.fullmatch(name):
            return shape[0] - 1  # without the background, which is the last class
    # RetinaNet's convolutions have (classes x anchors) and (4 x anchors) output channels.
    scores = shapes.get("head.cls_score.weight")
    boxes = shapes.get("head.bbox_pred.weight")
    if scores is None or boxes is None or not boxes[0]:
        return None
    return scores[0] * 4 // boxes[0]


def heads_that_start_anew(
    coverage: Coverage, file: Mapping[str, Shape], model: Mapping[str, Shape]
) -> str:
    """Say which layers are not loaded because the file has another number of classes.

    Args:
        coverage: the comparison of the two.
        file, model: shapes of their tensors.

    Returns:
        One sentence without its subject, the file; "" if nothing is left out for that reason.
    """
    theirs, ours = number_of_classes(file), number_of_classes(model)
    if theirs is None or ours is None or theirs == ours:
        return ""
    wrong = [name for name, *_ in coverage.wrong_shape if part_of(name) not in BOTTOM_UP_PARTS]
    if not wrong:  # such as the heads of another kind of detector, which are all missing
        return ""
    return (
        f"has {_classes(theirs)}, and the model has {_classes(ours)}: these layers start anew: "
        f"{', '.join(grouped(wrong))}"
    )


def _classes(count: int) -> str:
    return f"{count} class" if count == 1 else f"{count} classes"
