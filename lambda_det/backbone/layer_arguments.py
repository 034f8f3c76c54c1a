"""The arguments of the lambda layers in a stage."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence

from torch import nn

from lambda_det.layers.lambda_layer import LambdaLayer, is_size, new_embedding


def check_layer_arguments(arguments: Mapping[str, object]) -> None:
    """Raise TypeError for what :class:`LambdaLayer` or this builder does not take, even where no
    block has a lambda layer."""
    known = inspect.signature(LambdaLayer).parameters.keys()
    for name in arguments:
        if name not in known - {"in_channels", "out_channels", "norm", "shared_embedding"}:
            raise TypeError(f"build_lambda_resnet() got an unexpected keyword argument {name!r}")


def stage_layers(
    flags: Sequence[bool],
    strides: Sequence[int],
    input_stride: int,
    arguments: Mapping[str, object],
    *,
    shared: bool,
) -> list[dict[str, object] | None]:
    """Arguments of every block's lambda layer, None for a block without one."""
    layers = []
    tables: dict[int, nn.Parameter] = {}
    stride = input_stride  # a strided block's layer works before the pooling
    for has_layer, block_stride in zip(flags, strides, strict=True):
        layer = dict(arguments)
        if is_size(layer.get("max_size")):  # LambdaLayer refuses the others
            layer["max_size"] = tuple(math.ceil(side / stride) for side in layer["max_size"])
        if has_layer and shared and layer.get("position", True):
            if stride not in tables:
                tables[stride] = new_embedding(**layer)
            layer["shared_embedding"] = tables[stride]
        layers.append(layer if has_layer else None)
        stride *= block_stride
    return layers
