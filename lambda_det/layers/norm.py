"""Normalisation layers by name, without detectron2."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from lambda_det.errors import InputError

Norm = str | Callable[[int], nn.Module | None]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with gcd(32, channels) groups: 32 groups if 32 divides ``channels``, else fewer."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "": lambda channels: nn.Identity(),
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": group_norm,
}


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Make a normalisation layer for ``channels`` channels.

    Args:
        norm: ``"BN"``, ``"SyncBN"``, ``"FrozenBN"`` (torchvision's), ``"GN"``, ``""`` (none), or a
            callable that takes the number of channels and returns a module (or None for none).
        channels: number of channels of the (N, C, H, W) input.

    Raises:
        InputError: ``norm`` is a string other than these names.
    """
    if callable(norm):
        return norm(channels) or nn.Identity()
    if norm not in _NORMS:
        allowed = ", ".join(repr(name) for name in _NORMS)
        raise InputError(f"norm={norm!r}: expected one of {allowed}, or a callable")
    return _NORMS[norm](channels)
