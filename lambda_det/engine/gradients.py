"""Gradients that are not finite although the loss is: found at the cost of one norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NAMED = 3  # parameters in a message


def any_not_finite(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Whether a gradient holds NaN or infinity: bool, on the gradients' device.

    Nothing waits for a GPU here. The largest magnitude is taken and not the root of the sum of
    squares, which is infinite of finite gradients too.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
    if not gradients:
        return torch.zeros((), dtype=torch.bool)
    largest = torch.stack([norm.float() for norm in torch._foreach_norm(gradients, math.inf)])
    return ~torch.isfinite(largest).all()


def names_not_finite(model: nn.Module) -> list[str]:
    """The parameters of ``model`` whose gradients are not finite, in the order of the model."""
    return [
        name.removeprefix("module.")  # of DistributedDataParallel
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all()
    ]


def described(names: list[str]) -> str:
    """What a message says of :func:`names_not_finite`."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"the gradient is not finite, the loss is ({', '.join(names[:NAMED])}{more})"
