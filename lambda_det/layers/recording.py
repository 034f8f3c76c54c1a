"""Detects whether the forward pass is being traced, exported, compiled, transformed or
differentiated in forward mode.

A recorded graph runs later, on other image sizes and without this package, so it may hold only
PyTorch operators and no branch on a size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_exporting() -> bool:
    """Whether ``torch.jit.trace`` or ``torch.export`` is recording the forward pass."""
    # torch.compiler.is_exporting is new in PyTorch 2.7; `bool()` is False before.
    exporting = getattr(torch.compiler, "is_exporting", bool)
    return torch.jit.is_tracing() or exporting()


def is_transformed() -> bool:
    """Whether a transform of ``torch.func``, such as ``vmap`` or ``grad``, is active.

    The package's autograd functions and operators support ``backward()`` only, not functional
    transforms. PyTorch has no public function for this. It documents, however, that a transform
    refuses an autograd function without ``setup_context``, so this function calls one and watches
    for the error (2 microseconds).
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
        """Does nothing; only the attempt to call it matters."""


def has_tangent(*tensors: Tensor) -> bool:
    """Whether one of the tensors carries a tangent of ``torch.autograd.forward_ad``.

    The package's operators would drop it without an error. Outside of a ``dual_level`` the question
    takes a third of a microsecond for each tensor.
    """
    if torch.compiler.is_compiling():
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def plain_operators(*tensors: Tensor) -> bool:
    """Whether only PyTorch operators may be used, and sizes must not be read as Python numbers.

    This holds while the forward pass is exported, a ``torch.func`` transform is active, or one of
    the ``tensors`` has a tangent.
    """
    return is_exporting() or is_transformed() or has_tangent(*tensors)


def is_known(condition: bool) -> bool:
    """Whether ``condition`` is known to be true without the value of any dynamic size.

    Under ``torch.compile(dynamic=True)``, reading the value of a dynamic size would specialise the
    graph to that size. Outside of a compiled graph this is ``bool(condition)``.
    """
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental import symbolic_shapes  # imports sympy

    return symbolic_shapes.statically_known_true(condition)


def is_fixed(size: int) -> bool:
    """Whether ``size`` is a fixed number rather than a dynamic size of a compiled graph."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental import symbolic_shapes

    return symbolic_shapes.has_static_value(size)
