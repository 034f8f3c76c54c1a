"""detectron2's normalisation layers, also for layers narrower than its GroupNorm allows."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.layers import get_norm
from torch import nn

from lambda_det.errors import InputError
from lambda_det.layers.norm import group_norm

BackboneNorm = str | Callable[[int], nn.Module | None]


def backbone_norm(norm: BackboneNorm, channels: int) -> nn.Module | None:
    """:func:`detectron2.layers.get_norm`, with a clear error.

    ``"GN"`` takes gcd(32, channels) groups where detectron2 always takes 32: the same for every
    convolution of the family, and possible for a lambda layer's 16 value channels.

    Raises:
        InputError: ``norm`` is a name that the installed detectron2 does not know.
    """
    if norm == "GN":
        return group_norm(channels)
    return get_norm(norm, channels)


def check_norm(name: str, norm: BackboneNorm | None) -> None:
    """Raise InputError, naming the argument ``name``, for a norm that detectron2 does not know."""
    try:
        backbone_norm(norm, 32)
    except KeyError:
        known = "'', 'BN', 'SyncBN', 'FrozenBN', 'GN', 'nnSyncBN' or 'naiveSyncBN'"
        if norm == "naiveSyncBN_N":
            raise InputError(
                f"{name}={norm!r}: this detectron2 is older than that name; expected {known}; in "
                "heads 'GN' takes a batch without regions too (the v0.5 that "
                "tools/install_detectron2.py makes has the name)"
            ) from None
        raise InputError(
            f"{name}={norm!r}: expected {known}, 'naiveSyncBN_N' or a callable"
        ) from None
