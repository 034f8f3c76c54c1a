"""LambdaResNet: detectron2's ResNet with the family's blocks, built from explicit arguments."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn

from lambda_det.backbone.architectures import (
    BLOCKS_PER_STAGE,
    STAGES,
    BlockChoice,
    lambda_block_flags,
    se_stages_of,
)
from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.backbone.layer_arguments import check_layer_arguments, stage_layers
from lambda_det.backbone.masking import Stage
from lambda_det.backbone.norms import BackboneNorm, check_norm
from lambda_det.backbone.padding import padding_mask, share_all_image_sizes
from lambda_det.backbone.stems import STEM_CHANNELS, build_stem
from lambda_det.errors import InputError
from lambda_det.layers.squeeze_excitation import masked_mean

logger = logging.getLogger(__name__)

RES2_CHANNELS = 256


class LambdaResNet(ResNet):
    """detectron2's ResNet that also classifies on its own and knows what it froze.

    Args:
        stem: a block with stride 4.
        stages: blocks of res2, res3, ...
        out_features: names among ``stem``, ``res2`` ... ``res5`` and, with ``num_classes``,
            ``linear``. Stages that no feature needs are not kept.
        num_classes: size of the classifier ``linear``; None = no classifier. With it all stages
            are kept.
        freeze_at: number of stages to freeze, counted from the stem, see :meth:`freeze`.
        dropout: probability in front of the classifier.
        max_size: (H, W) of the largest image that the global scopes in it cover; None = any.
        mask_padding: treat the padding of a batch as outside of the image, where
            :mod:`lambda_det.backbone.padding` has attached the sizes of the images to the input.
            Stem and blocks take a ``padding_mask``, see :mod:`lambda_det.backbone.masking`.

    Raises:
        InputError: an unknown feature, or ``freeze_at`` out of range.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: list[list[CNNBlockBase]],
        *,
        out_features: Sequence[str],
        num_classes: int | None = None,
        freeze_at: int = 0,
        dropout: float = 0.0,
        max_size: tuple[int, int] | None = None,
        mask_padding: bool = False,
    ) -> None:
        allowed = ["stem", *STAGES] + (["linear"] if num_classes is not None else [])
        if not out_features or isinstance(out_features, str):
            raise InputError(f"out_features={out_features!r}: expected a list of {allowed}")
        for name in out_features:
            if name not in allowed:
                raise InputError(f"out_features: unknown feature {name!r}, expected {allowed}")
        if not isinstance(freeze_at, int) or not 0 <= freeze_at <= len(STAGES) + 1:
            raise InputError(f"freeze_at={freeze_at!r}: expected an integer from 0 (none) to 5")

        if num_classes is not None and num_classes < 1:
            raise InputError(f"num_classes={num_classes!r}: expected a positive integer")

        self._frozen: tuple[str, ...] = ()
        self._loaded: set[str] = set()
        self._warning_hook: Any = None
        self._max_size = max_size
        self.mask_padding = mask_padding
        # None keeps all stages: ResNet would drop every stage that only the classifier needs.
        kept = None if num_classes is not None else list(out_features)
        super().__init__(stem, stages, num_classes=num_classes, out_features=kept)
        self._out_features = list(out_features)
        for index, name in enumerate(self.stage_names):
            self.stages[index] = Stage(*self.stages[index])
            setattr(self, name, self.stages[index])
        if num_classes is not None:
            self._out_feature_channels["linear"] = num_classes
            self._out_feature_strides["linear"] = None
            self.add_module("avgpool", nn.Sequential(self.avgpool, nn.Dropout(dropout)))
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> the features by name.

        With ``mask_padding`` and norms that do not measure their input (BN in evaluation, FrozenBN)
        the features of an image are those that it has alone. BN in training, GN and SyncBN still
        count the padding. What the features hold in the padding has no meaning.

        Raises:
            InputError: an image, with its padding, is larger than a global scope covers.
        """
        height, width = x.shape[-2:]
        if self._max_size and (height > self._max_size[0] or width > self._max_size[1]):
            raise InputError(
                f"input of {height}x{width} with padding: scope='global' was built for at most "
                f"max_size={tuple(self._max_size)} (MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE)"
            )
        batch, stride = x, self.stem.stride
        mask_at = partial(padding_mask, batch) if self.mask_padding else lambda _stride: None
        x = self.stem(x) if (mask := mask_at(1)) is None else self.stem(x, mask)
        outputs = {"stem": x} if "stem" in self._out_features else {}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = stage(x, mask_at(stride))
            stride = self._out_feature_strides[name]
            if name in self._out_features:
                outputs[name] = x
        if "linear" in self._out_features:
            pooled = self.avgpool(x if (mask := mask_at(stride)) is None else masked_mean(x, mask))
            outputs["linear"] = self.linear(pooled.flatten(1))
        return outputs

    def freeze(self, freeze_at: int = 0) -> LambdaResNet:
        """Freeze the stem (1), the stem and res2 (2), ... up to res5 (5); 0 freezes nothing.

        Frozen parameters take no gradient and BatchNorm becomes FrozenBatchNorm. What is frozen
        but was never loaded is listed by :meth:`frozen_without_weights`.

        Returns:
            This backbone.
        """
        super().freeze(freeze_at)
        self._frozen = max(self._frozen, ("stem", *self.stage_names)[:freeze_at], key=len)
        if self._frozen and self._warning_hook is None:
            self._warning_hook = self.register_forward_pre_hook(_warn_of_random_frozen_weights)
        return self

    def frozen_without_weights(self) -> list[str]:
        """Names of frozen tensors that no state dict has filled, in the order of the network."""
        return [
            f"{stage}.{name}"
            for stage in self._frozen
            for name in getattr(self, stage).state_dict()
            if f"{stage}.{name}" not in self._loaded and not name.endswith("num_batches_tracked")
        ]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any, **kw: Any) -> None:
        # PyTorch calls this whether the weights are loaded into the backbone or into a whole
        # detector, so it sees every checkpoint.
        self._loaded.update(
            name
            for name, tensor in self.state_dict().items()
            if prefix + name in state_dict and state_dict[prefix + name].shape == tensor.shape
        )
        super()._load_from_state_dict(state_dict, prefix, *more, **kw)


def _warn_of_random_frozen_weights(backbone: LambdaResNet, _inputs: tuple[Tensor, ...]) -> None:
    """Forward pre-hook: warn once, at the first training forward, then be gone."""
    if not backbone.training:
        return
    backbone._warning_hook.remove()
    names = backbone.frozen_without_weights()
    if names:
        logger.warning(
            "%d frozen tensors of the backbone were never loaded and stay random, e.g. %s: load "
            "weights or set MODEL.BACKBONE.FREEZE_AT 0",
            len(names),
            names[0],
        )


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
    shared_embeddings: bool = False,
    lambda_norm_qv: BackboneNorm | None = None,
    mask_padding: bool = False,
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
        shared_embeddings: one table of position embeddings for the layers of a stage that work at
            one resolution; a strided block's layer works before its pooling and keeps its own.
        lambda_norm_qv: norm of queries and values; None = ``norm``, ``""`` = none.
        mask_padding: in a network with lambda layers or SE, see :class:`LambdaResNet`. Every
            registered meta-architecture with a ``preprocess_image`` tells the sizes from then on,
            see :mod:`lambda_det.backbone.padding`.
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
    check_layer_arguments(lambda_layer_arguments)
    if not 0 < se_ratio <= 1:
        raise InputError(f"se_ratio={se_ratio}: expected a number above 0, up to 1")
    for name, rate in (("drop_path_rate", drop_path_rate), ("dropout", dropout)):
        if not 0 <= rate < 1:
            raise InputError(f"{name}={rate}: expected a number from 0 to below 1")
    check_norm("norm", norm)
    check_norm("lambda_norm_qv", lambda_norm_qv)
    if lambda_pool not in (2, 3):
        raise InputError(f"lambda_pool={lambda_pool!r}: expected 3 (the paper's) or 2 (timm's)")
    built_stem = build_stem(stem, in_channels, norm, activation)

    stages = []
    channels, stride = STEM_CHANNELS, built_stem.stride
    drop_path = np.linspace(0, drop_path_rate, sum(BLOCKS_PER_STAGE[depth])).tolist()
    for index, (name, num_blocks) in enumerate(zip(STAGES, BLOCKS_PER_STAGE[depth], strict=True)):
        out_channels = RES2_CHANNELS * 2**index
        strides = [1 if index == 0 else 2] + [1] * (num_blocks - 1)
        layers = stage_layers(
            flags[name], strides, stride, lambda_layer_arguments, shared=shared_embeddings
        )
        stages.append(
            ResNet.make_stage(
                LambdaBottleneck,
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
            )
        )
        channels, stride = out_channels, stride * strides[0]
    has_lambda = any(map(any, flags.values()))
    mask_padding = mask_padding and bool(has_lambda or se_stages or num_classes)
    if mask_padding:
        share_all_image_sizes()
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
    )
