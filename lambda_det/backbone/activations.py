"""The activation that follows every norm of the family, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from lambda_det.errors import InputError

Activation = Callable[[Tensor], Tensor]


def silu_(x: Tensor) -> Tensor:
    """SiLU in place; a function, which TorchScript takes where it refuses a partial one."""
    return F.silu(x, inplace=True)


ACTIVATIONS: dict[str, Activation] = {"relu": F.relu_, "silu": silu_}
"""Name -> function that works in place. The papers' is ReLU; SiLU is for timm's weights."""


def activation_function(name: str) -> Activation:
    """The activation called ``name``.

    Raises:
        InputError: the family has no such activation.
    """
    if name not in ACTIVATIONS:
        allowed = ", ".join(map(repr, ACTIVATIONS))
        raise InputError(f"activation={name!r}: expected one of {allowed}")
    return ACTIVATIONS[name]
