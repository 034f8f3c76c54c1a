"""The networks of the "why" study as data: a member of the family, and what is changed in it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from lambda_det.analysis.flops import count_flops, total_flops
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.architectures import STAGES
from lambda_det.backbone.blocks import LambdaBottleneck
from studies.evidence.true_boxes import TrueBoxes

CHANNELS = 64
"""Of a level of the FPN."""

_LARGEST = (192, 192)  # pixels, of an image that the global scope covers
_SIDE = 23  # of the depthwise convolution: the scope of the paper


@dataclass(frozen=True)
class Network:
    """How a network is built.

    Attributes:
        variant, depth: of the family.
        arguments: further ones of :func:`lambda_det.backbone.build_lambda_resnet`.
        frozen: what keeps its random start: the embeddings of the lambda layers, or all of their
            parameters, those of the norms of queries and values among them. The running statistics
            of these norms follow the training all the same: what comes into the layer changes.
        depthwise: a :class:`Depthwise` convolution stands in the place of each lambda layer.
    """

    variant: str
    depth: int = 26
    arguments: Mapping[str, Any] = field(default_factory=dict)
    frozen: Literal["embedding", "layer"] | None = None
    depthwise: bool = False


# Depth 26 has its lambda layers in the second block of res4 and in both of res5.
NETWORKS: dict[str, Network] = {
    "resnet": Network("resnet"),
    "se": Network("se"),
    "lambda": Network("lambda"),
    "content": Network("lambda", arguments={"position": False}),
    "position": Network("lambda", arguments={"content": False}),
    "scope_3": Network("lambda", arguments={"scope": 3}),
    "scope_7": Network("lambda", arguments={"scope": 7}),
    "scope_15": Network("lambda", arguments={"scope": 15}),
    "scope_global": Network("lambda", arguments={"scope": "global", "max_size": _LARGEST}),
    "res4_only": Network("lambda", arguments={"lambda_blocks": {"res4": [2], "res5": []}}),
    # The second block, whose layer works at the resolution of res5; that of the first works at the
    # resolution of res4 and is pooled.
    "res5_only": Network("lambda", arguments={"lambda_blocks": {"res4": [], "res5": [2]}}),
    "zero_init": Network("lambda", arguments={"zero_init_residual": True}),
    "frozen_embedding": Network("lambda", frozen="embedding"),
    "frozen_layer": Network("lambda", frozen="layer"),
    "depthwise": Network("lambda", depthwise=True),
    "resnet_50": Network("resnet", depth=50),
}
"""Name -> how it is built. ``lambda`` is the paper's layer, of scope 23."""


class Depthwise(nn.Conv2d):
    """A depthwise convolution, without bias, of as wide a window as the lambda layer's: it reaches
    as far, with weights that do not depend on what the image shows.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, _SIDE, padding=_SIDE // 2, groups=channels, bias=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(N, channels, H, W) -> the same. Where ``padding_mask`` (N, H, W) bool is True, ``x``
        counts as zero."""
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[:, None], 0)
        return super().forward(x)


def lambda_blocks(model: nn.Module) -> dict[str, LambdaBottleneck]:
    """Name -> block with a lambda layer, or with what stands in its place."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LambdaBottleneck) and module.lambda_layer is not None
    }


def build_network(name: str, kinds: int = 2) -> TrueBoxes:
    """A network with its FPN and a classifier of true boxes, with random weights.

    Args:
        name: one of :data:`NETWORKS`.
        kinds: of objects.
    """
    network = NETWORKS[name]
    # The branches start open: a few hundred iterations do not open them.
    arguments = {"zero_init_residual": False} | dict(network.arguments)
    backbone = build_lambda_resnet(
        network.depth, network.variant, norm="BN", out_features=STAGES, **arguments
    )
    for block in lambda_blocks(backbone).values():
        if network.depthwise:
            block.lambda_layer = Depthwise(block.lambda_layer.in_channels)
        elif network.frozen == "embedding":
            block.lambda_layer.embedding.requires_grad_(False)
        elif network.frozen == "layer":
            block.lambda_layer.requires_grad_(False)
    fpn = FPN(backbone, list(STAGES), CHANNELS, norm="BN", top_block=None)
    return TrueBoxes(fpn, CHANNELS, kinds)


def windows(net: TrueBoxes) -> dict[str, Tensor]:
    """Block, such as ``res4.1`` -> a copy of what its layer weighs the places around one with: the
    embedding of a lambda layer, the weight of a depthwise convolution."""
    found = {}
    for name, block in lambda_blocks(net.fpn.bottom_up).items():
        layer = block.lambda_layer
        weights = layer.weight if isinstance(layer, Depthwise) else layer.embedding
        if weights is not None:
            found[name] = weights.detach().clone()
    return found


def moved(before: Tensor, after: Tensor) -> float:
    """How far weights have moved, relative to their size: |after − s·before| / |before| with the
    factor s that makes it least; a mere scaling is none of it."""
    old, new = before.double().flatten(), after.double().flatten()
    return float((new - (old @ new) / (old @ old) * old).norm() / old.norm())


def parameters(net: TrueBoxes) -> int:
    """Number of parameters of backbone and FPN, the frozen ones included."""
    return sum(parameter.numel() for parameter in net.fpn.parameters())


def multiply_adds(net: TrueBoxes, height: int, width: int) -> int:
    """Of the backbone for one image, as :func:`lambda_det.analysis.flops.count_flops` counts them
    (a window in full, also where it hangs over the edge)."""
    backbone = deepcopy(net.fpn.bottom_up).to("meta")
    return total_flops(count_flops(backbone, torch.zeros(1, 3, height, width, device="meta")))
