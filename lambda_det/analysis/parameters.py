"""The parts of a detector, and the numbers of parameters of a network by part."""

from __future__ import annotations

from collections import Counter

import torch
from detectron2.config import CfgNode
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.architectures import BOTTOM_UP_PARTS
from lambda_det.backbone.build import lambda_resnet_arguments

NUM_CLASSES = 1000
"""Number of ImageNet's classes, for which papers state the parameters of a backbone."""

PARTS = (*BOTTOM_UP_PARTS, "classifier", "neck", "heads")


def part_of(name: str) -> str:
    """Return the part, one of :data:`PARTS`, to which a module or parameter belongs.

    Args:
        name: the name in a detector, such as ``backbone.bottom_up.res4.5.conv1.weight`` or
            ``roi_heads``, or in a bare backbone, such as ``res4.5``.
    """
    names = name.split(".")
    in_backbone = names[0] == "backbone"
    rest = [part for part in names if part not in ("backbone", "bottom_up")]
    if not rest:
        return "neck"
    if rest[0] in BOTTOM_UP_PARTS:
        return rest[0]
    if rest[0] in ("linear", "avgpool"):
        return "classifier"
    return "neck" if in_backbone else "heads"


def count_parameters(model: nn.Module) -> Counter[str]:
    """Count the parameters of a model by part, frozen parameters included.

    A tensor that several layers share is counted once. Buffers, such as the weight of
    FrozenBatchNorm2d, are not parameters.

    Returns:
        Part (see :func:`part_of`) -> number of parameters.
    """
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return counts


def classifier_form_parameters(cfg: CfgNode) -> int:
    """Count the parameters of the backbone of ``cfg`` as an ImageNet classifier, as papers do.

    The network has all stages and a linear classifier of 1000 classes. FrozenBN is counted as BN.
    """
    arguments = lambda_resnet_arguments(cfg)
    arguments |= {
        "norm": "BN" if arguments["norm"] == "FrozenBN" else arguments["norm"],
        "freeze_at": 0,
        "out_features": ("linear",),
        "num_classes": NUM_CLASSES,
        "in_channels": len(cfg.MODEL.PIXEL_MEAN),
    }
    with torch.device("meta"):
        return sum(count_parameters(build_lambda_resnet(**arguments)).values())
