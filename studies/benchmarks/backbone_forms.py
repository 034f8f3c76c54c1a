"""The backbones that the benchmark of backbones compares, each with an FPN on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.architectures import STAGES
from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.layers import LambdaLayer
from studies.benchmarks.layer_forms import PEER_FORMS

FPN_CHANNELS = 256

BASELINE = "resnet"
"""The model whose time is the denominator of ratios."""

_LAST_NORM = 0.2
"""Weight of the last norm of every block. New residual branches start at zero, trained ones are not
zero, and arithmetic with zeros may take another time."""


@dataclass(frozen=True)
class Model:
    """A backbone of the family.

    Attributes:
        label: name in tables, with ``{}`` for the depth.
        variant: argument of :func:`lambda_det.backbone.build_lambda_resnet`.
        form: key of ``PEER_FORMS``: the form of another implementation in which its lambda layers
            are computed; None takes this package's.
        backend: back end of this package's lambda layers.
    """

    label: str
    variant: str
    form: str | None = None
    backend: str = "auto"


MODELS = {
    BASELINE: Model("R-{}", "resnet"),
    "se": Model("SE-{}", "se"),
    "lambda": Model("λ-{}", "lambda"),
    "lambda-conv2d": Model("λ-{}, conv2d form", "lambda", "conv2d form"),
    "lambda-conv3d": Model("λ-{}, conv3d form", "lambda", "conv3d form"),
    "lambda-conv": Model("λ-{}, conv", "lambda", backend="conv"),
    "lambda-triton": Model("λ-{}, triton", "lambda", backend="triton"),
}
"""Name -> model."""

BY_DEFAULT = tuple(name for name, model in MODELS.items() if model.backend == "auto")
"""The models that are measured unless others are asked for."""


def build_model(name: str, depth: int, seed: int) -> FPN:
    """Build a model of :data:`MODELS` with FPN (p2 to p6) and random weights.

    Args:
        name: key of :data:`MODELS`.
        depth: depth of the backbone.
        seed: seed of the weights.

    Raises:
        InputError: the family does not have this depth.
    """
    model = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_lambda_resnet(depth, model.variant, backend=model.backend)
        fpn = FPN(backbone, STAGES, FPN_CHANNELS, top_block=LastLevelMaxPool())
    for block in fpn.modules():
        if not isinstance(block, LambdaBottleneck):
            continue
        nn.init.constant_(block.conv3.norm.weight, _LAST_NORM)
        if model.form is not None and block.lambda_layer is not None:
            block.lambda_layer = PeerLayer(block.lambda_layer, PEER_FORMS[model.form])
    return fpn


class PeerLayer(nn.Module):
    """A lambda layer as other implementations compute it: all lambdas first, then the queries.

    Args:
        layer: the layer whose parameters are used. It must have content and position and a softmax
            over the keys, and no other option.
        position: function of query, value and embedding that gives the position lambdas' output.
    """

    def __init__(
        self, layer: LambdaLayer, position: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.layer = layer
        self.position = position

    def forward(self, x: Tensor, padding_mask: None = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W), for images without padding."""
        if padding_mask is not None:
            raise NotImplementedError("other implementations have no padding mask")
        layer = self.layer
        query = layer.query_norm(layer.query(x)).unflatten(1, (layer.num_heads, layer.query_depth))
        key = layer.key(x).unflatten(1, (layer.intra_depth, layer.query_depth))
        value = layer.value_norm(layer.value(x)).unflatten(1, (layer.intra_depth, -1))
        weights = key.flatten(3).softmax(dim=-1)
        content = torch.einsum("nukm,nuvm->nkv", weights, value.flatten(3))
        output = torch.einsum("nhkyx,nkv->nhvyx", query, content)
        return (output + self.position(query, value, layer.embedding)).flatten(1, 2)
