"""The network of the family: detectron2's ResNet with a classifier, padding masks and checks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn

from lambda_det.backbone.architectures import STAGES
from lambda_det.backbone.masking import Stage
from lambda_det.backbone.padding import padding_mask
from lambda_det.errors import InputError
from lambda_det.layers.recording import is_exporting
from lambda_det.layers.squeeze_excitation import masked_mean

logger = logging.getLogger(__name__)


class LambdaResNet(ResNet):
    """detectron2's ResNet, which can also mask padding and warns of frozen random weights.

    Args:
        stem: a block with stride 4.
        stages: the blocks of res2, res3, ...
        out_features: names among ``stem``, ``res2`` ... ``res5`` and, with ``num_classes``,
            ``linear``. Stages after the last of these features are dropped.
        num_classes: number of outputs of the classifier ``linear``; None = no classifier. With a
            classifier all stages are kept.
        freeze_at: number of stages to freeze, counted from the stem, see :meth:`freeze`.
        dropout: probability of the dropout before the classifier.
        max_size: (H, W) of the largest image that the lambda layers with a global scope cover;
            None = any.
        mask_padding: treat the padding of a batch as lying outside the images, if
            :mod:`lambda_det.backbone.padding` has attached the sizes of the images to the input.
            Stem and blocks must take a ``padding_mask``, see :mod:`lambda_det.backbone.masking`.
        activation_checkpointing: stages whose blocks are computed again in the backward pass, see
            :mod:`lambda_det.backbone.recomputation`.

    Raises:
        InputError: a feature is unknown, or ``freeze_at`` or ``num_classes`` is out of range.
    """

    other_kind: Mapping[str, object] = {}
    """What names and shapes do not show of layers of another kind than ``"lambda"``, see
    :func:`lambda_det.backbone.kinds.facts_of_kind`."""

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
        activation_checkpointing: Sequence[str] = (),
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
        self._unloaded_is_news = False
        self.max_size = max_size
        self.mask_padding = mask_padding
        # None keeps all stages: ResNet would drop every stage that only the classifier needs.
        kept = None if num_classes is not None else list(out_features)
        super().__init__(stem, stages, num_classes=num_classes, out_features=kept)
        self._out_features = list(out_features)
        for index, name in enumerate(self.stage_names):
            self.stages[index] = Stage(*self.stages[index])
            self.stages[index].checkpointing = name in activation_checkpointing
            setattr(self, name, self.stages[index])
        if num_classes is not None:
            self._out_feature_channels["linear"] = num_classes
            self._out_feature_strides["linear"] = None
            self.add_module("avgpool", nn.Sequential(self.avgpool, nn.Dropout(dropout)))
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch.

        With ``mask_padding`` and norms that take no statistics of their input (BN in evaluation,
        FrozenBN), the features of an image are the same as without the rest of the batch. BN and
        SyncBN in training, and GN, include the padding in their statistics. The features at padded
        positions have no meaning.

        Args:
            x: (N, C, H, W).

        Returns:
            Name of each output feature -> (N, channels, H / stride, W / stride), sizes rounded up;
            ``linear`` is (N, num_classes).

        Raises:
            InputError: the batch, with its padding, is larger than the global scope covers.
        """
        if self._unloaded_is_news and self.training and not torch.compiler.is_compiling():
            self._unloaded_is_news = False
            self._warn_of_random_frozen_weights()
        self._check_size(x)
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

    def _check_size(self, x: Tensor) -> None:
        height, width = x.shape[-2:]
        if is_exporting() or self.max_size is None:
            return  # an exported graph must also work for other sizes
        if height > self.max_size[0] or width > self.max_size[1]:
            raise InputError(
                f"input of {height}x{width} with padding: scope='global' was built for at most "
                f"max_size={tuple(self.max_size)} (MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE)"
            )

    def freeze(self, freeze_at: int = 0) -> LambdaResNet:
        """Freeze the stem (1), the stem and res2 (2), ... up to res5 (5); 0 freezes nothing.

        Frozen parameters get no gradient, and each BatchNorm becomes a FrozenBatchNorm.
        :meth:`frozen_without_weights` lists frozen tensors that were never loaded.

        Returns:
            The backbone itself.
        """
        super().freeze(freeze_at)
        self._frozen = max(self._frozen, ("stem", *self.stage_names)[:freeze_at], key=len)
        self._unloaded_is_news = bool(self._frozen)
        return self

    def frozen_without_weights(self) -> list[str]:
        """Names of the frozen tensors that no state dict has set, in the order of the network."""
        return [
            f"{stage}.{name}"
            for stage in self._frozen
            for name in getattr(self, stage).state_dict()
            if f"{stage}.{name}" not in self._loaded and not name.endswith("num_batches_tracked")
        ]

    def most_to_freeze(self) -> int:
        """The highest ``freeze_at``, up to the present one, that freezes no tensor of
        :meth:`frozen_without_weights`."""
        names = self.frozen_without_weights()
        return self._frozen.index(names[0].partition(".")[0]) if names else len(self._frozen)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *more: Any, **kw: Any) -> None:
        # PyTorch calls this method both when the backbone and when a whole detector loads a state
        # dict, so it sees every checkpoint.
        self._loaded.update(
            name
            for name, tensor in self.state_dict().items()
            if prefix + name in state_dict and state_dict[prefix + name].shape == tensor.shape
        )
        super()._load_from_state_dict(state_dict, prefix, *more, **kw)

    def _warn_of_random_frozen_weights(self) -> None:
        names = self.frozen_without_weights()
        if names:
            logger.warning(
                "%d frozen tensors of the backbone were never loaded and stay random, e.g. %s: "
                "load weights or set MODEL.BACKBONE.FREEZE_AT %d",
                len(names),
                names[0],
                self.most_to_freeze(),
            )
