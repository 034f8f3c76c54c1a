"""Who looks on while a forward runs: a recorder of operators, a compiler, a function transform.

What is recorded is used for other images without this code: operators of PyTorch only, and no
decision that depends on a size.
"""

from __future__ import annotations

import torch


def leaves_python() -> bool:
    """Whether ``torch.jit.trace`` or ``torch.export`` is recording, for use without this code."""
    exporting = getattr(torch.compiler, "is_exporting", bool)  # PyTorch 2.7
    return torch.jit.is_tracing() or exporting()


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is active. Autograd functions and operators of our own
    know ``backward()`` only.

    PyTorch has no public call that tells. But it documents that a transform refuses an autograd
    function without ``setup_context``, so one is tried (2 microseconds).
    """
    if torch.compiler.is_compiling():
        return False
    try:
        _WithoutSetupContext.apply()
    except RuntimeError:
        return True
    return False


class _WithoutSetupContext(torch.autograd.Function):
    @staticmethod
    def forward(ctx) -> None:
        """Nothing is computed."""


def plain_operators() -> bool:
    """Whether only operators of PyTorch will do, without sizes as Python numbers."""
    return leaves_python() or is_transformed()


def is_known(condition: bool) -> bool:
    """``condition`` where it can be told without the value of a size that is left open.

    Compiled for any size (``torch.compile(dynamic=True)``), asking such a size for its value would
    tie the graph to it.
    """
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental import symbolic_shapes  # imports sympy

    return symbolic_shapes.statically_known_true(condition)


def is_fixed(size: int) -> bool:
    """Whether a size is a number, and not left open in a graph that is compiled for any size."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental import symbolic_shapes

    return symbolic_shapes.has_static_value(size)
