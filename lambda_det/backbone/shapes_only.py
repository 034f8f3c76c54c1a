"""Builds networks of which only the names and shapes of the tensors are needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

_DRAWING = frozenset(
    (
        Tensor.normal_,
        Tensor.uniform_,
        *(init.normal_, init.uniform_, init.kaiming_normal_, init.kaiming_uniform_),
    )
)


class _NothingDrawnOnMeta(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _DRAWING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return function(*args, **kwargs)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """A context in which modules are built on the meta device and without random initialisation.

    ``torch.device("meta")`` alone saves the memory, but PyTorch still dispatches the random
    initialisers for meta tensors, which takes a third of the time of building a network.
    """
    with torch.device("meta"), _NothingDrawnOnMeta():
        yield
