"""Activation checkpointing: a block keeps only its input and is recomputed in the backward pass.

``torch.utils.checkpoint`` restores the random state and autocast for the second computation. It
does not restore buffers, so the running statistics of a BatchNorm would be updated twice for each
batch. This module prevents that.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def computed_twice(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Compute ``block(*inputs)`` such that autograd keeps only the inputs.

    Values and gradients are those of ``block(*inputs)``. After the backward pass the buffers of the
    block (running statistics, counters) are also the same.
    """
    if torch.compiler.is_compiling():  # a compiled graph updates each buffer only once
        return checkpoint(block, *inputs, use_reentrant=False)

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return contextlib.nullcontext(), _BuffersPutBack(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


class _BuffersPutBack:
    """A context in which a block works on copies of its buffers, which are dropped at the end.

    Every backward pass through the block enters it, also a second one through a retained graph.
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
