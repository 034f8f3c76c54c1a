"""The networks of the "why" study as data: a network of the family, and what is changed in it."""

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
"""Number of channels of each level of the FPN."""

_LARGEST = (192, 192)  # largest image, in pixels, that the global scope covers
_SIDE = 23  # side of the depthwise convolution's kernel: the scope of the paper


@dataclass(frozen=True)
class Network:
    """How a network is built.

    Attributes:
        variant, depth: arguments of :func:`lambda_det.backbone.build_lambda_resnet`.
        arguments: further arguments of this function.
        frozen: what keeps its random initial values: the embeddings of the lambda layers, or all of
            their parameters, including the norms of queries and values. The running statistics of
            these norms are updated all the same, because the layers' inputs change.
        depthwise: whether a :class:`Depthwise` convolution replaces each lambda layer.
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
    # The layer of the second block works at the resolution of res5. That of the first block would
    # work at the resolution of res4, before the pooling.
    "res5_only": Network("lambda", arguments={"lambda_blocks": {"res4": [], "res5": [2]}}),
    "zero_init": Network("lambda", arguments={"zero_init_residual": True}),
    "frozen_embedding": Network("lambda", frozen="embedding"),
    "frozen_layer": Network("lambda", frozen="layer"),
    "depthwise": Network("lambda", depthwise=True),
    "resnet_50": Network("resnet", depth=50),
}
"""Name -> how the network is built. ``lambda`` has the paper's layer with scope 23."""


class Depthwise(nn.Conv2d):
    """A depthwise convolution without bias whose window is as large as the lambda layer's.

    It has the same reach as a lambda layer, but its weights do not depend on the image. The kind
    ``"depthwise"`` is the same layer. It would be built in place of the lambda layer and not after
    it, so that the recorded runs would start with other random weights.

    Args:
        channels: number of channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, _SIDE, padding=_SIDE // 2, groups=channels, bias=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Map (N, channels, H, W) to the same shape.

        ``x`` counts as zero where ``padding_mask`` (N, H, W) bool is True.
        """
        if padding_mask is not None:
            x = x.masked_fill(padding_mask[:, None], 0)
        return super().forward(x)


def lambda_blocks(model: nn.Module) -> dict[str, LambdaBottleneck]:
    """The blocks, by name, that have a lambda layer or its replacement."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LambdaBottleneck) and module.lambda_layer is not None
    }


def build_network(name: str, kinds: int = 2) -> TrueBoxes:
    """Build a network with an FPN and a classifier of true boxes, with random weights.

    Args:
        name: key of :data:`NETWORKS`.
        kinds: number of kinds of objects.
    """
    network = NETWORKS[name]
    # The last norms start at 1: a few hundred iterations would not move them far away from 0.
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
    net = TrueBoxes(fpn, CHANNELS, kinds, layer_norm=True)
    return net.to(memory_format=torch.channels_last)


def windows(net: TrueBoxes) -> dict[str, Tensor]:
    """Copy the position weights of each block: a lambda layer's embedding or a depthwise weight.

    Returns:
        Name of the block, such as ``res4.1`` -> weights.
    """
    found = {}
    for name, block in lambda_blocks(net.fpn.bottom_up).items():
        layer = block.lambda_layer
        weights = layer.weight if isinstance(layer, Depthwise) else layer.embedding
        if weights is not None:
            found[name] = weights.detach().clone()
    return found


def moved(before: Tensor, after: Tensor) -> float:
    """How far weights have moved, relative to their size, where scaling does not count.

    This is |after − s·before| / |before| with the factor s that makes it smallest.
    """
    old, new = before.double().flatten(), after.double().flatten()
    return float((new - (old @ new) / (old @ old) * old).norm() / old.norm())


def parameters(net: TrueBoxes) -> int:
    """Number of parameters of backbone and FPN, including frozen ones."""
    return sum(parameter.numel() for parameter in net.fpn.parameters())


def multiply_adds(net: TrueBoxes, height: int, width: int) -> int:
    """Number of multiply-adds of the backbone for one image of ``height`` x ``width`` pixels.

    They are counted by :func:`lambda_det.analysis.flops.count_flops`, where a window counts in full
    even at the edge of the image.
    """
    backbone = deepcopy(net.fpn.bottom_up).to("meta")
    return total_flops(count_flops(backbone, torch.zeros(1, 3, height, width, device="meta")))
