"""The channels-last memory format of tensors (N, a, b, H, W), whose channels are on two axes."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers.recording import is_exporting, is_known


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` (N, a, b, H, W), seen as (N, a * b, H, W), is in channels-last format only.

    A tensor whose strides fit both formats (for example with H = W = 1) gives False.
    """
    return not x.is_contiguous() and x.permute(0, 3, 4, 1, 2).is_contiguous()


def guard_gradient(x: Tensor) -> None:
    """Make the gradient of ``x`` (N, a, b, H, W), the output of a norm, take ``x``'s memory layout.

    On a CPU, PyTorch's BatchNorm reads a gradient in the wrong order when its strides fit both
    channels last and channels first. The gradient of an einsum or of a permuted tensor can have
    such strides when N, H or W is 1. In all other cases this function does nothing and copies
    nothing.
    """
    if not (x.requires_grad and x.device.type == "cpu") or is_exporting():
        return
    sizes = x.shape[0], *x.shape[-2:]
    if any(is_known(size == 1) for size in sizes):
        x.register_hook(_last if is_channels_last(x) else _first)


# Autograd calls a hook with None if no gradient has reached the tensor.
def _first(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def _last(gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    last = gradient.permute(0, 3, 4, 1, 2).contiguous(memory_format=torch.contiguous_format)
    return last.permute(0, 3, 4, 1, 2)
