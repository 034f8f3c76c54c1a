"""A clock for the choice of a back end, and small tensors for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lambda_det.layers.choices import CHOICES

CPU = torch.device("cpu")


class Clock:
    """Says how long a back end takes, and notes whom it was asked for."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.asked = seconds, []

    def __call__(self, name: str, call: Callable, repeats: int, query: Tensor) -> float:
        self.asked.append(name)
        return self.seconds[name]


def inputs(n=1, v=4, height=6, width=6, *, gradient=True, window=5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, 2, 3, height, width), (n, 1, v, height, width), (3, 1, window, window))
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensor.requires_grad_(gradient) for tensor in tensors]


def chosen() -> list[str]:
    return [b for choices in CHOICES.table().values() for b in choices.values()]
