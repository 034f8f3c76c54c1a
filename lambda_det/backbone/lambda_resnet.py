"""A LambdaResNet from explicit arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn

from lambda_det.backbone.architectures import (
    BLOCKS_PER_STAGE,
    STAGES,
    BlockChoice,
    check_stages,
    lambda_block_flags,
    se_stages_of,
)
from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.backbone.network import LambdaResNet
from lambda_det.backbone.norms import BackboneNorm, check_norm
from lambda_det.backbone.padding import watch_for_models
from lambda_det.backbone.stems import STEM_CHANNELS, build_stem
from lambda_det.errors import InputError
from lambda_det.layers.lambda_layer import LambdaLayer, is_size, new_embedding

RES2_CHANNELS = 256


def build_lambda_resnet(
    depth: int,
    variant: str,
    *,
    stem: str = "rs",
    in_channels: int = 3,
    norm: BackboneNorm = "BN",
    out_features: Sequence[str] = STAGES,
    lambda_blocks: Mapping[str, BlockChoice | None] | None = None,
    se_stages: Sequence[str] | None = None,
    se_ratio: float = 0.25,
    stride_in_1x1: bool = False,
    activation: str = "relu",
    lambda_pool: int = 3,
    num_classes: int | None = None,
    freeze_at: int = 0,
    drop_path_rate: float = 0.0,
    dropout: float = 0.0,
    zero_init_residual: bool = True,
    idle_stages: Sequence[str] = (),
    shared_embeddings: bool = False,
    lambda_norm_qv: BackboneNorm | None = None,
    mask_padding: bool = False,
    block_class: type[CNNBlockBase] = LambdaBottleneck,
    activation_checkpointing: Sequence[str] = (),
    **lambda_layer_arguments: Any,
) -> LambdaResNet:
    """A backbone of the family.

    Args:
        depth: 50, 101, 152, 200, 270, 350 or 420 (26 for weights of timm).
        variant: ``"resnet"``, ``"se"``, ``"lambda"`` (the paper's hybrid: the listed blocks of
            res4 and all of res5) or ``"lambda_full"`` (all of res4 and res5).
        stem: ``"rs"`` (ResNet-RS, with pooled shortcuts), or with plain shortcuts ``"v1"`` (7x7
            and max-pooling; takes ordinary ResNet weights) or ``"tiered"`` (timm's).
        in_channels: channels of the image.
        norm: as for :func:`detectron2.layers.get_norm`.
        out_features: among ``stem``, ``res2`` ... ``res5``, ``linear``.
        lambda_blocks: stage -> 1-based block numbers, ``"all"`` or ``[]``; a stage that is absent
            keeps the variant's.
        se_stages: stages with squeeze-and-excitation; None = the variant's, ``()`` = none.
        se_ratio: squeezed / block output channels.
        stride_in_1x1: stride in conv1, as in the MSRA ResNets.
        activation: ``"relu"``, or ``"silu"`` as in some of timm's networks.
        lambda_pool: side of the pooling in a strided lambda block: 3, or 2 as in timm's.
        num_classes: build the classifier ``linear``; ``out_features=("linear",)`` then returns
            ``{"linear": logits}``.
        freeze_at: 0 to 5, see :meth:`LambdaResNet.freeze`.
        drop_path_rate: stochastic depth of the last block; earlier blocks linearly less.
        dropout: in front of the classifier.
        zero_init_residual: the last norm of each bottleneck starts at 0 (the paper's; for schedules
            of tens of thousands of iterations) or at 1, for short ones, which would end before the
            blocks have a part in anything.
        idle_stages: stages among ``res2`` … ``res5`` whose residual branches are held at 0
            throughout: what training reaches without them is the control of what they give.
        shared_embeddings: one table of position embeddings for the layers of a stage that work at
            one resolution; a strided block's layer works before its pooling and keeps its own.
        lambda_norm_qv: norm of queries and values; None = ``norm``, ``""`` = none.
        mask_padding: see :class:`LambdaResNet`. A model with a ``preprocess_image`` that the
            backbone is given to tells it the sizes, see :mod:`lambda_det.backbone.padding`.
        activation_checkpointing: stages among ``res2`` ... ``res5`` whose blocks keep only their
            input for the backward pass and are computed again in it: less memory, the same
            numbers, about a third more time of such a stage. In training only.
        block_class: the blocks of res2 ... res5; takes the arguments of its default.
        **lambda_layer_arguments: of :class:`lambda_det.layers.LambdaLayer`: ``query_depth``,
            ``num_heads``, ``intra_depth``, ``scope``, ``key_normalizer``, ``query_normalizer``,
            ``content``, ``position``, ``position_bias``, ``backend``, and ``max_size``: here the
            (H, W) of the largest image; each layer divides it by its stride.

    Returns:
        A detectron2 ``Backbone``: (N, in_channels, H, W), any H and W -> dict of features.

    Raises:
        InputError: a value that is not allowed; the line names it.
        TypeError: an unknown keyword.
    """
    flags = lambda_block_flags(depth, variant, lambda_blocks)
    se_stages = se_stages_of(variant, se_stages)
    _check_layer_arguments(lambda_layer_arguments)
    if not 0 < se_ratio <= 1:
        raise InputError(f"se_ratio={se_ratio}: expected a number above 0, up to 1")
    for name, rate in (("drop_path_rate", drop_path_rate), ("dropout", dropout)):
        if not 0 <= rate < 1:
            raise InputError(f"{name}={rate}: expected a number from 0 to below 1")
    check_norm("norm", norm)
    check_norm("lambda_norm_qv", lambda_norm_qv)
    if lambda_pool not in (2, 3):
        raise InputError(f"lambda_pool={lambda_pool!r}: expected 3 (the paper's) or 2 (timm's)")
    check_stages("activation_checkpointing", activation_checkpointing)
    check_stages("idle_stages", idle_stages)
    built_stem = build_stem(stem, in_channels, norm, activation)

    stages = []
    channels, stride = STEM_CHANNELS, built_stem.stride
    drop_path = np.linspace(0, drop_path_rate, sum(BLOCKS_PER_STAGE[depth])).tolist()
    for index, (name, num_blocks) in enumerate(zip(STAGES, BLOCKS_PER_STAGE[depth], strict=True)):
        out_channels = RES2_CHANNELS * 2**index
        strides = [1 if index == 0 else 2] + [1] * (num_blocks - 1)
        layers = _stage_layers(
            flags[name], strides, stride, lambda_layer_arguments, shared=shared_embeddings
        )
        stages.append(
            ResNet.make_stage(
                block_class,
                num_blocks,
                in_channels=channels,
                out_channels=out_channels,
                bottleneck_channels=out_channels // 4,
                stride_per_block=strides,
                norm=norm,
                stride_in_1x1=stride_in_1x1,
                pool_shortcut=stem == "rs",
                lambda_layer_per_block=layers,
                lambda_norm_qv=lambda_norm_qv,
                se_ratio=se_ratio if name in se_stages else 0.0,
                activation=activation,
                lambda_pool=lambda_pool,
                drop_path_per_block=[drop_path.pop(0) for _ in range(num_blocks)],
                zero_init_residual=zero_init_residual,
                idle=name in idle_stages,
            )
        )
        channels, stride = out_channels, stride * strides[0]
    has_lambda = any(map(any, flags.values()))
    if mask_padding:
        watch_for_models()
    is_global = lambda_layer_arguments.get("scope") == "global" and has_lambda
    return LambdaResNet(
        built_stem,
        stages,
        out_features=out_features,
        num_classes=num_classes,
        freeze_at=freeze_at,
        dropout=dropout,
        max_size=lambda_layer_arguments["max_size"] if is_global else None,
        mask_padding=mask_padding,
        activation_checkpointing=activation_checkpointing,
    )


def _check_layer_arguments(arguments: Mapping[str, object]) -> None:
    """Raise TypeError for what :class:`LambdaLayer` or this builder does not take, even where no
    block has a lambda layer."""
    known = inspect.signature(LambdaLayer).parameters.keys()
    for name in arguments:
        if name not in known - {"in_channels", "out_channels", "norm", "shared_embedding"}:
            raise TypeError(f"build_lambda_resnet() got an unexpected keyword argument {name!r}")


def _stage_layers(
    flags: Sequence[bool],
    strides: Sequence[int],
    input_stride: int,
    arguments: Mapping[str, Any],
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
