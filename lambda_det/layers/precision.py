"""How the layers compute under autocast and in half precision.

A 23x23 window sums 529 products with unit-normal weights: bfloat16 loses the small ones and
float16 can overflow, so sums and softmax run in at least float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """The type that PyTorch's promotion gives to ``tensors`` together."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, ``dtype`` itself for float32 and float64."""
    return torch.promote_types(dtype, torch.float32)


def autocast_to(dtype: torch.dtype | None, device: str) -> AbstractContextManager:
    """Autocast to ``dtype`` on a device type; None leaves things as they are."""
    return nullcontext() if dtype is None else torch.autocast(device, dtype=dtype)


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves the types of operations on ``tensor``'s device alone."""
    if tensor.is_meta:  # shapes only; autocast does not know the device
        return nullcontext()
    return torch.autocast(device_type=tensor.device.type, enabled=False)
