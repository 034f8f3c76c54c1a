"""detectron2's normalisation layers, also for layers narrower than its GroupNorm allows."""

from __future__ import annotations

from detectron2.layers import get_norm
from torch import nn

from lambda_det.errors import InputError
from lambda_det.layers.norm import Norm, group_norm


def backbone_norm(norm: Norm, channels: int) -> nn.Module | None:
    """:func:`detectron2.layers.get_norm`, but ``"GN"`` also works for few channels.

    ``"GN"`` has gcd(32, channels) groups; detectron2's always has 32. For every convolution of the
    family both are the same; a lambda layer's 16 value channels could not have 32 groups.

    Raises:
        KeyError: the installed detectron2 does not know the name ``norm``, see :func:`check_norm`.
    """
    if norm == "GN":
        return group_norm(channels)
    return get_norm(norm, channels)


def check_norm(name: str, norm: Norm | None) -> None:
    """Raise InputError, naming the argument ``name``, if detectron2 does not know ``norm``."""
    try:
        backbone_norm(norm, 32)
    except KeyError:
        known = "'', 'BN', 'SyncBN', 'FrozenBN', 'GN', 'nnSyncBN' or 'naiveSyncBN'"
        if norm == "naiveSyncBN_N":
            raise InputError(
                f"{name}={norm!r}: the installed detectron2 does not have this norm yet; expected "
                f"{known}. In heads, 'GN' also accepts a batch without regions (the v0.5 that "
                "tools/install_detectron2.py makes has 'naiveSyncBN_N')"
            ) from None
        raise InputError(
            f"{name}={norm!r}: expected {known}, 'naiveSyncBN_N' or a callable"
        ) from None
