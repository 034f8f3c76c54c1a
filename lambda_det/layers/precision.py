"""How the layers compute under autocast and in half precision.

A 23x23 window sums 529 products with unit-normal weights. In bfloat16 such a sum loses the small
products and in float16 it can overflow, so sums and softmax run in at least float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def common_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to which PyTorch's type promotion brings all ``tensors``."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for float16 and bfloat16; ``dtype`` itself for float32 and float64."""
    return torch.promote_types(dtype, torch.float32)


def autocast_to(dtype: torch.dtype | None, device: str) -> AbstractContextManager:
    """A context that autocasts to ``dtype`` on a device type; with None it changes nothing."""
    return nullcontext() if dtype is None else torch.autocast(device, dtype=dtype)


def tf32_is_allowed() -> tuple[bool, bool]:
    """Whether matrix products and convolutions of float32 may be taken in TensorFloat-32 on a GPU,
    by the flags of ``torch.backends``."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return _is_tf32(matmul, matmul), _is_tf32(cudnn, getattr(cudnn, "conv", cudnn))


def _is_tf32(flags: Any, newer: Any) -> bool:
    try:
        return flags.allow_tf32
    except RuntimeError:  # PyTorch 2.9's flags are set, which the earlier one cannot express
        return newer.fp32_precision != "ieee"


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """A context in which autocast is off for the device of ``tensor``."""
    if tensor.is_meta:  # torch.autocast does not accept the meta device
        return nullcontext()
    return torch.autocast(device_type=tensor.device.type, enabled=False)
