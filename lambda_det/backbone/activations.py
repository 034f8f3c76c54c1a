"""The activation functions that a backbone of the family can use, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from lambda_det.errors import check_choice

Activation = Callable[[Tensor], Tensor]


ACTIVATIONS: dict[str, Activation] = {"relu": F.relu_, "silu": partial(F.silu, inplace=True)}
"""Name -> function that works in place. The papers use ReLU; some weights of timm need SiLU."""


def activation_function(name: str) -> Activation:
    """The activation called ``name``.

    Raises:
        InputError: ``name`` is not a key of :data:`ACTIVATIONS`.
    """
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
