"""Channels last for what has its channels on two axes, (N, a, b, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers.recording import is_known, leaves_python


def is_channels_last(x: Tensor) -> bool:
    """Whether (N, a * b, H, W) would have its channels last, and not first as well."""
    return not x.is_contiguous() and x.permute(0, 3, 4, 1, 2).is_contiguous()


def guard_gradient(x: Tensor) -> None:
    """Give the gradient of ``x``, (N, a, b, H, W) out of a norm, the memory layout of ``x``.

    PyTorch's BatchNorm on a CPU reads a gradient in the wrong order when its strides pass for
    channels last and for channels first at once, which those of an einsum or of a permuted tensor
    can when N, H or W is 1. Elsewhere this does nothing, and nothing is copied.
    """
    if not (x.requires_grad and x.device.type == "cpu") or leaves_python():
        return
    sizes = x.shape[0], *x.shape[-2:]
    if any(is_known(size == 1) for size in sizes):
        x.register_hook(_last if is_channels_last(x) else _first)


# Autograd calls a hook with None where no gradient has come this far.
def _first(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def _last(gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    last = gradient.permute(0, 3, 4, 1, 2).contiguous(memory_format=torch.contiguous_format)
    return last.permute(0, 3, 4, 1, 2)
