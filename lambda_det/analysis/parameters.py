"""Parameters of a network by part."""

from __future__ import annotations

from collections import Counter

from detectron2.config import CfgNode
from torch import nn

from lambda_det.analysis.parts import part_of
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.backbone.shapes_only import shapes_only

NUM_CLASSES = 1000
"""Classes of the classifier form: ImageNet's."""


def count_parameters(model: nn.Module) -> Counter[str]:
    """Part (see :func:`lambda_det.analysis.parts.part_of`) -> parameters, frozen ones included.

    A tensor that several layers share is counted once. What is a buffer, such as the weight of a
    FrozenBatchNorm, is no parameter.
    """
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[part_of(name)] += parameter.numel()
    return counts


def classifier_form_parameters(cfg: CfgNode) -> int:
    """Parameters of the backbone of ``cfg`` with all stages and a 1000-way linear classifier,
    which is what papers give for a backbone; weights of frozen norms count too."""
    arguments = lambda_resnet_arguments(cfg)
    arguments |= {
        "norm": "BN" if arguments["norm"] == "FrozenBN" else arguments["norm"],
        "freeze_at": 0,
        "out_features": ("linear",),
        "num_classes": NUM_CLASSES,
        "in_channels": len(cfg.MODEL.PIXEL_MEAN),
    }
    with shapes_only():
        return sum(count_parameters(build_lambda_resnet(**arguments)).values())
