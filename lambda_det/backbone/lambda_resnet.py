"""Builds a LambdaResNet from explicit arguments, without a config."""

from __future__ import annotations

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
from lambda_det.backbone.kinds import (
    Kind,
    check_lambda_only,
    facts_of_kind,
    find_kind,
    layer_arguments,
    log_kind,
    warn_of_padding,
)
from lambda_det.backbone.network import LambdaResNet
from lambda_det.backbone.norms import check_norm
from lambda_det.backbone.padding import watch_for_models
from lambda_det.backbone.stems import STEM_CHANNELS, build_stem
from lambda_det.errors import InputError
from lambda_det.layers.lambda_layer import is_size, new_embedding
from lambda_det.layers.norm import Norm

RES2_CHANNELS = 256


def build_lambda_resnet(
    depth: int,
    variant: str,
    *,
    stem: str = "rs",
    in_channels: int = 3,
    norm: Norm = "BN",
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
    lambda_norm_qv: Norm | None = None,
    mask_padding: bool = False,
    block_class: type[CNNBlockBase] = LambdaBottleneck,
    activation_checkpointing: Sequence[str] = (),
    kind: Kind = "lambda",
    **lambda_layer_arguments: Any,
) -> LambdaResNet:
    """Build a backbone of the family.

    Args:
        depth: 50, 101, 152, 200, 270, 350 or 420 (or 26, for weights of timm).
        variant: ``"resnet"``, ``"se"``, ``"lambda"`` (the paper's hybrid: the listed blocks of
            res4 and all of res5) or ``"lambda_full"`` (all of res4 and res5).
        stem: ``"rs"`` (ResNet-RS, with pooled shortcuts), ``"v1"`` (7x7 convolution and
            max-pooling, with plain shortcuts; fits the weights of ordinary ResNets) or ``"tiered"``
            (timm's, with plain shortcuts).
        in_channels: number of channels of the image.
        norm: as for :func:`detectron2.layers.get_norm`.
        out_features: names among ``stem``, ``res2`` ... ``res5``, ``linear``.
        lambda_blocks: stage -> 1-based block numbers, ``"all"`` or ``[]``; a stage that is absent
            keeps the variant's blocks.
        se_stages: stages with squeeze-and-excitation; None = the variant's, ``()`` = none.
        se_ratio: number of squeezed channels divided by the block's output channels.
        stride_in_1x1: put the stride into conv1, as in the MSRA ResNets.
        activation: ``"relu"``, or ``"silu"`` as in some networks of timm.
        lambda_pool: side of the average pooling in a strided lambda block: 3, or 2 as in timm.
        num_classes: number of outputs of the classifier ``linear``; None = no classifier. With
            ``out_features=("linear",)`` the network returns ``{"linear": logits}``.
        freeze_at: 0 to 5, see :meth:`LambdaResNet.freeze`.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0 at
            the first block.
        dropout: probability of the dropout before the classifier.
        zero_init_residual: the weight of the last norm of each bottleneck starts at 0, as in the
            paper, which suits schedules of tens of thousands of iterations. False starts it at 1,
            which suits short schedules: they would end before the residual branches have grown to
            contribute anything.
        idle_stages: stages among ``res2`` … ``res5`` whose residual branches add 0 throughout. A
            network that is trained with idle stages is the control for what these stages
            contribute.
        shared_embeddings: all lambda layers of a stage that work at the same resolution share one
            table of position embeddings. The layer of a strided block works before its pooling, at
            another resolution, and keeps its own table.
        lambda_norm_qv: norm of the lambda layers' queries and values; None = ``norm``, ``""`` =
            none.
        mask_padding: see :class:`LambdaResNet`. A detector with a method ``preprocess_image`` then
            passes the sizes of its images to the backbone, see :mod:`lambda_det.backbone.padding`.
        activation_checkpointing: stages among ``res2`` ... ``res5`` whose blocks keep only their
            input in training and are computed again in the backward pass. This takes less memory
            and about a third more time for such a stage; the numbers are the same.
        block_class: class of the blocks of res2 ... res5; it must take the arguments of
            :class:`LambdaBottleneck`.
        kind: the layer at the lambda blocks: ``"lambda"``, another name of
            :data:`lambda_det.layers.attention.KINDS`, a class or a function, or the name of one in
            :data:`lambda_det.backbone.LAYER_REGISTRY`. The latter two are called with the number
            of channels and return a module that maps (N, channels, H, W) to the same shape; if its
            forward has an argument ``padding_mask``, it gets the mask by this name.
        **lambda_layer_arguments: arguments of the layer. Those of
            :class:`lambda_det.layers.LambdaLayer` are ``query_depth``, ``num_heads``,
            ``intra_depth``, ``scope``, ``key_normalizer``, ``query_normalizer``, ``content``,
            ``position``, ``position_bias``, ``backend``, ``autotune`` and ``max_size``; other kinds
            take some of them. Here ``max_size`` is the (H, W) of the largest image; it is divided
            by the stride of each layer.

    Returns:
        A detectron2 ``Backbone`` that maps (N, in_channels, H, W), any H and W, to a dict of
        features.

    Raises:
        InputError: an argument has a value that is not allowed; the message names it.
        TypeError: a keyword is unknown.
    """
    flags = lambda_block_flags(depth, variant, lambda_blocks)
    se_stages = se_stages_of(variant, se_stages)
    kind = find_kind(kind)
    lambda_layer_arguments = layer_arguments(kind, lambda_layer_arguments)
    check_lambda_only(kind, shared_embeddings=shared_embeddings, lambda_norm_qv=lambda_norm_qv)
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
                # A block class of a user's may be older than this argument.
                **({} if kind == "lambda" else {"kind": kind}),
            )
        )
        channels, stride = out_channels, stride * strides[0]
    has_lambda = any(map(any, flags.values()))
    if mask_padding:
        watch_for_models()
    is_global = lambda_layer_arguments.get("scope") == "global" and has_lambda
    network = LambdaResNet(
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
    if kind != "lambda" and has_lambda:
        network.other_kind = facts_of_kind(kind, lambda_layer_arguments)
        log_kind(kind, lambda_layer_arguments)
    if mask_padding:
        warn_of_padding(kind, network)
    return network


def _stage_layers(
    flags: Sequence[bool],
    strides: Sequence[int],
    input_stride: int,
    arguments: Mapping[str, Any],
    *,
    shared: bool,
) -> list[dict[str, object] | None]:
    """The arguments of each block's lambda layer; None for a block without a lambda layer."""
    layers = []
    tables: dict[int, nn.Parameter] = {}
    stride = input_stride  # the lambda layer of a strided block works before the pooling
    for has_layer, block_stride in zip(flags, strides, strict=True):
        layer = dict(arguments)
        if is_size(layer.get("max_size")):  # LambdaLayer raises InputError for other values
            layer["max_size"] = tuple(math.ceil(side / stride) for side in layer["max_size"])
        if has_layer and shared and layer.get("position", True):
            if stride not in tables:
                tables[stride] = new_embedding(**layer)
            layer["shared_embedding"] = tables[stride]
        layers.append(layer if has_layer else None)
        stride *= block_stride
    return layers
