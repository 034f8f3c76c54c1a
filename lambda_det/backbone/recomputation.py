"""Activation checkpointing: a block keeps its input alone and is computed again in the backward.

PyTorch's checkpoint repeats the random numbers and autocast. It does not know that a norm notes
what it has seen, and that a second look at the same batch must not be noted.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def computed_twice(block: nn.Module, *inputs: Tensor) -> Tensor:
    """``block(*inputs)``, of which autograd keeps the inputs only.

    Values and gradients are those of ``block(*inputs)``; so are the buffers of the block (running
    statistics, counters), once the backward pass is over.
    """
    if torch.compiler.is_compiling():  # what a graph notes in a buffer it notes once
        return checkpoint(block, *inputs, use_reentrant=False)

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), _BuffersPutBack(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


class _BuffersPutBack:
    """Inside, the block works on copies of its buffers: what it writes is forgotten.

    Entered by every backward pass through the block, that of a retained graph as well.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block

    def __enter__(self) -> None:
        self._originals = [
            (module, name, buffer)
            for module in self._block.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        for module, name, buffer in self._originals:
            setattr(module, name, buffer.clone())

    def __exit__(self, *_error: object) -> None:
        for module, name, buffer in self._originals:
            setattr(module, name, buffer)
        del self._originals
