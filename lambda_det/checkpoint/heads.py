"""What the heads in a file of weights say of the detector."""

from __future__ import annotations

import re

from lambda_det.checkpoint.loading import read_weights

# Mask R-CNN's head, or the first of a cascade's.
_BOX_HEAD = re.compile(r"roi_heads\.box_predictor\.(0\.)?cls_score\.weight")


def number_of_classes(path: str) -> int | None:
    """How many classes the box head in a file of weights tells apart; None where it has none.

    Raises:
        InputError: the file cannot be read.
    """
    tensors = read_weights(path).others
    for name, tensor in tensors.items():
        if _BOX_HEAD.fullmatch(name):
            return tensor.shape[0] - 1  # the last is the background
    scores = tensors.get("head.cls_score.weight")  # RetinaNet: classes x anchors, 4 x anchors
    boxes = tensors.get("head.bbox_pred.weight")
    if scores is None or boxes is None or not boxes.shape[0]:
        return None
    return scores.shape[0] * 4 // boxes.shape[0]
