"""The ``"native"`` back end of the position lambda: C++ kernels for a CPU.

    y[n,h,v,p] = sum_u,d (sum_k q[n,h,k,p] E[k,u,d]) V[n,u,v,p+d]

With q·E first, as in :mod:`lambda_det.layers.banded`, but without a band: each position's
weights are computed where they stay in the processor's caches and are multiplied there with the
values, in registers. Products and sums are taken in float32, or in float64 if a tensor is. With the
same number of threads the result is the same to the bit.
"""

from __future__ import annotations

import ctypes
import logging

import torch
from torch import Tensor

from lambda_det.layers import native_build
from lambda_det.layers.own_backward import position_operator
from lambda_det.layers.precision import at_least_float32, common_dtype

_logger = logging.getLogger(__name__)
_logged: set[str] = set()
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}  # Type of native/interface.h

BEST_LEVEL = 2
"""The best instruction set to use where the processor has it: 0 the compiler's default, 1 AVX2,
2 AVX-512."""


def native(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The position lambda by C++ kernels, for arguments that :func:`unsupported` accepts.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`, of any memory
            layout; values in channels-last memory are read where they lie.

    Returns:
        (N, h, v, H, W) in the common dtype of query and value, but at least float32. Its memory is
        channels last if the value's is.
    """
    return _native(query, value, embedding)


def unsupported(query: Tensor, value: Tensor, embedding: Tensor) -> str | None:
    """The reason why this back end cannot compute ``position_lambda`` of these arguments.

    The first call compiles the kernels.

    Returns:
        A clause for a log line, or None if the back end can compute it.
    """
    if query.is_meta:  # nothing is computed
        return None
    if query.device.type != "cpu":
        return f"it needs a CPU, the tensors are on {query.device.type}"
    return _missing()


# torch.compile calls these two while it traces, and does not look inside.
@torch.compiler.assume_constant_result
def _missing() -> str | None:
    try:
        native_build.library()
    except native_build.BuildError as error:
        return str(error)
    return None


@torch.compiler.assume_constant_result
def log_fallback(reason: str, backend: str) -> None:
    """Warn that ``backend`` is used instead of ``"native"``, once for each reason."""
    if reason not in _logged:
        _logged.add(reason)
        _logger.warning(
            "backend 'native' of position_lambda cannot run (%s); %r is used instead",
            reason,
            backend,
        )


class _Tensor(ctypes.Structure):
    """``Tensor`` of native/interface.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("strides", ctypes.c_ssize_t * 5),
        ("type", ctypes.c_int),
    ]

    @classmethod
    def of(cls, tensor: Tensor) -> _Tensor:
        strides = (ctypes.c_ssize_t * 5)(*tensor.stride())
        return cls(tensor.data_ptr(), strides, _TYPES[tensor.dtype])


_TENSORS = ("query", "value", "embedding", "output")


class _Call(ctypes.Structure):
    """``Call`` of native/interface.h."""

    _fields_ = [
        ("sizes", ctypes.c_ssize_t * 9),
        *((name, _Tensor) for name in _TENSORS),
        *((f"{name}_gradient", _Tensor) for name in _TENSORS),
        ("computed_in", ctypes.c_int),
    ]


def _forward(query: Tensor, value: Tensor, embedding: Tensor, output: Tensor) -> None:
    _run("lambda_det_forward", (query, value, embedding), {}, {"output": output})


def _backward(
    gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = query, value, embedding
    found = [torch.empty_like(_readable(tensor)) for tensor in inputs]
    written = {f"{name}_gradient": tensor for name, tensor in zip(_TENSORS, found, strict=False)}
    _run("lambda_det_backward", inputs, {"output_gradient": gradient}, written)
    query_gradient, value_gradient, embedding_gradient = (
        new.to(tensor.dtype) for new, tensor in zip(found, inputs, strict=True)
    )
    return query_gradient, value_gradient, embedding_gradient


def _run(
    function: str,
    inputs: tuple[Tensor, Tensor, Tensor],
    others: dict[str, Tensor],
    written: dict[str, Tensor],
) -> None:
    query, value, embedding = inputs
    images, heads, depth, height, width = query.shape
    sizes = images, heads, depth, *value.shape[1:3], height, width, *embedding.shape[2:]
    if 0 in sizes:  # there is nothing to sum
        for tensor in written.values():
            tensor.zero_()
        return
    dtype = at_least_float32(common_dtype(*inputs))
    call = _Call((ctypes.c_ssize_t * 9)(*sizes), computed_in=_TYPES[dtype])
    read = dict(zip(_TENSORS, inputs, strict=False)) | others
    tensors = {name: _readable(tensor) for name, tensor in read.items()} | written
    for name, tensor in tensors.items():
        setattr(call, name, _Tensor.of(tensor))
    if getattr(native_build.library(), function)(ctypes.byref(call), BEST_LEVEL):
        raise MemoryError(f"not enough memory for position_lambda of {sizes}")


def _readable(tensor: Tensor) -> Tensor:
    """float16, which the kernels do not read, as float32."""
    return tensor.float() if tensor.dtype == torch.float16 else tensor


_native = position_operator("native", _forward, _backward)
