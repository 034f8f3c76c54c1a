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
"""The model that ratios are to."""

_LAST_NORM = 0.2
"""Weight of the last norm of every block: a residual branch starts at zero, is trained away from it
and must not be timed with zeros."""


@dataclass(frozen=True)
class Model:
    """A backbone of the family.

    Attributes:
        label: for people, with ``{}`` for the depth.
        variant: of :func:`lambda_det.backbone.build_lambda_resnet`.
        form: the one of other implementations that its lambda layers are computed in, one of
            ``PEER_FORMS``; None = as this package does.
    """

    label: str
    variant: str
    form: str | None = None


MODELS = {
    BASELINE: Model("R-{}", "resnet"),
    "se": Model("SE-{}", "se"),
    "lambda": Model("λ-{}", "lambda"),
    "lambda-conv2d": Model("λ-{}, conv2d form", "lambda", "conv2d form"),
    "lambda-conv3d": Model("λ-{}, conv3d form", "lambda", "conv3d form"),
}
"""What is measured unless something else is asked for."""


def build_model(name: str, depth: int, seed: int) -> FPN:
    """A model of :data:`MODELS` with FPN p2 ... p6, with random weights.

    Args:
        name: key of :data:`MODELS`.
        depth: of the backbone.
        seed: of the weights.

    Raises:
        InputError: a depth that the family does not have.
    """
    model = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_lambda_resnet(depth, model.variant)
        fpn = FPN(backbone, STAGES, FPN_CHANNELS, top_block=LastLevelMaxPool())
    for block in fpn.modules():
        if not isinstance(block, LambdaBottleneck):
            continue
        nn.init.constant_(block.conv3.norm.weight, _LAST_NORM)
        if model.form is not None and block.lambda_layer is not None:
            block.lambda_layer = PeerLayer(block.lambda_layer, PEER_FORMS[model.form])
    return fpn


class PeerLayer(nn.Module):
    """A lambda layer as other implementations compute it: all lambdas, then the queries.

    Args:
        layer: whose parameters are used; with content and position, softmax of the keys and
            nothing else that is optional.
        position: function of query, value and embedding.
    """

    def __init__(
        self, layer: LambdaLayer, position: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.layer = layer
        self.position = position

    def forward(self, x: Tensor, padding_mask: None = None) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W), of images without padding."""
        if padding_mask is not None:
            raise NotImplementedError("other implementations know no padding mask")
        layer = self.layer
        query = layer.query_norm(layer.query(x)).unflatten(1, (layer.num_heads, layer.query_depth))
        key = layer.key(x).unflatten(1, (layer.intra_depth, layer.query_depth))
        value = layer.value_norm(layer.value(x)).unflatten(1, (layer.intra_depth, -1))
        weights = key.flatten(3).softmax(dim=-1)
        content = torch.einsum("nukm,nuvm->nkv", weights, value.flatten(3))
        output = torch.einsum("nhkyx,nkv->nhvyx", query, content)
        return (output + self.position(query, value, layer.embedding)).flatten(1, 2)
