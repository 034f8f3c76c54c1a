"""lambda_det's networks as models of timm.

timm's name is ``lambda_resnet50`` ... ``lambda_resnet420`` for the variant "lambda",
``lambda_resnet50_full`` ... for "lambda_full", ``lambda_det_resnet50`` ... for "resnet" and
``lambda_det_seresnet50`` ... for "se". Keyword arguments of ``timm.create_model`` are passed to
:func:`lambda_det.backbone.build_lambda_resnet` (``stem="v1"``, ``scope=7``, ...).
"""

from __future__ import annotations

from functools import partial

import torch
from timm.models import build_model_with_cfg, checkpoint_seq, register_model
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.architectures import FAMILY_DEPTHS, STAGES
from lambda_det.errors import InputError

_PIXEL_MEAN, _PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PATTERNS = {
    "lambda": "lambda_resnet{depth}",
    "lambda_full": "lambda_resnet{depth}_full",
    "resnet": "lambda_det_resnet{depth}",
    "se": "lambda_det_seresnet{depth}",
}
"""Variant -> name in timm, for every depth of the paper. timm has no models of these names."""


class TimmLambdaResNet(nn.Module):
    """A classifier with the interface of timm's models.

    Its parameters have the bare backbone's names, so that MODEL.WEIGHTS accepts a checkpoint of
    timm's training script without a conversion.

    Args:
        depth: depth of :func:`build_lambda_resnet`.
        variant: variant of :func:`build_lambda_resnet`.
        num_classes: number of classes; 0 = no classifier, the output is the pooled features.
        in_chans: number of image channels.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth.
        global_pool: ``"avg"``, or ``""`` for no pooling, which requires ``num_classes=0``.
        **arguments: further arguments of :func:`build_lambda_resnet`.

    Raises:
        InputError: an argument has a wrong value.
    """

    def __init__(
        self,
        depth: int,
        variant: str,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        **arguments,
    ) -> None:
        super().__init__()
        network = build_lambda_resnet(
            depth,
            variant,
            in_channels=in_chans,
            num_classes=max(1, num_classes),
            out_features=("linear",),
            drop_path_rate=drop_path_rate,
            dropout=drop_rate,
            **arguments,
        )
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.stem = network.stem
        for stage in STAGES:
            setattr(self, stage, getattr(network, stage))
        self.num_features = self.head_hidden_size = network.linear.in_features
        self.linear: nn.Module = network.linear
        self.num_classes = num_classes
        self._set_pool(global_pool)
        if num_classes == 0:
            self.linear = nn.Identity()
        blocks = [self.stem, *(getattr(self, stage)[-1] for stage in STAGES)]
        strides = (self.stem.stride, 4, 8, 16, 32)
        self.feature_info = [
            {"num_chs": block.out_channels, "reduction": stride, "module": name}
            for name, block, stride in zip(("stem", *STAGES), blocks, strides, strict=True)
        ]

    def _set_pool(self, global_pool: str) -> None:
        if global_pool not in ("avg", "") or (not global_pool and self.num_classes):
            raise InputError(
                f"global_pool={global_pool!r}: expected 'avg', or '' together with num_classes=0"
            )
        self.global_pool = global_pool

    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        """Return the classifier, or its name."""
        return "linear" if name_only else self.linear

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one for ``num_classes`` classes; 0 = remove it."""
        self.num_classes = num_classes
        self._set_pool(self.global_pool if global_pool is None else global_pool)
        reference = self.stem.conv1.weight
        self.linear = nn.Identity()
        if num_classes:
            self.linear = nn.Linear(
                self.num_features, num_classes, device=reference.device, dtype=reference.dtype
            )
            nn.init.normal_(self.linear.weight, std=0.01)
            nn.init.zeros_(self.linear.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass, which saves memory."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return regular expressions for the stem and the stages (``coarse``) or blocks."""
        return {"stem": r"^stem", "blocks": r"^res(\d+)" if coarse else r"^res(\d+)\.(\d+)"}

    def _stage(self, name: str, x: Tensor) -> Tensor:
        stage = getattr(self, name)
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint_seq(stage, x)
        return stage(x)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features (N, 2048, ⌈H/32⌉, ⌈W/32⌉) of images (N, in_chans, H, W)."""
        x = self.stem(x)
        for name in STAGES:
            x = self._stage(name, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute the logits (N, num_classes), or the classifier's input with ``pre_logits``."""
        if self.global_pool:
            x = x.mean(dim=(2, 3))
        x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.linear(x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, in_chans, H, W)."""
        return self.forward_head(self.forward_features(x))


def _default_cfg(depth: int) -> dict[str, object]:
    side = 224 if depth <= 101 else 256  # the paper's image sizes in training
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": (side // 32, side // 32),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": _PIXEL_MEAN,
        "std": _PIXEL_STD,
        "first_conv": "stem.conv1",
        "classifier": "linear",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2102.08602",
        "paper_name": "LambdaNetworks: Modeling Long-Range Interactions Without Attention",
    }


# timm's register_model reads the variable of this name in the registered function's module.
default_cfgs = {
    pattern.format(depth=depth): _default_cfg(depth)
    for pattern in PATTERNS.values()
    for depth in FAMILY_DEPTHS
}


def _register(name: str, depth: int, variant: str) -> None:
    def entrypoint(pretrained: bool = False, **kwargs) -> nn.Module:
        network = partial(TimmLambdaResNet, depth, variant)
        return build_model_with_cfg(network, name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"Variant {variant!r} of depth {depth}; see :class:`TimmLambdaResNet`."
    register_model(entrypoint)


for _variant, _pattern in PATTERNS.items():
    for _depth in FAMILY_DEPTHS:
        _register(_pattern.format(depth=_depth), _depth, _variant)
