"""The position lambda of LambdaNetworks (arXiv:2102.08602, section 3) as one exact function.

    y[n,h,v,p] = sum_k q[n,h,k,p] sum_u sum_d E[k,u,d] V[n,u,v,p+d]

Values outside the image are zero. All back ends compute this sum, up to rounding; they differ in
speed and memory only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lambda_det.errors import InputError, check_choice
from lambda_det.layers import native_lambda
from lambda_det.layers.autotune import measured_backend
from lambda_det.layers.banded import banded
from lambda_det.layers.choice import choose_backend
from lambda_det.layers.lambda_first import conv, reference
from lambda_det.layers.precision import at_least_float32, common_dtype, without_autocast
from lambda_det.layers.recording import is_known, plain_operators
from lambda_det.layers.triton_lambda import log_fallback, triton_lambda, unsupported


def position_lambda(
    query: Tensor, value: Tensor, embedding: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Apply the position lambda of its neighbourhood to every query.

    Args:
        query: (N, h, k, H, W), h heads of depth k.
        value: (N, u, v, H, W), intra-depth u and v channels per head.
        embedding: (k, u, rh, rw), rh and rw odd. Entry ``[..., rh // 2 + dy, rw // 2 + dx]`` weighs
            the value at offset (dy, dx) from the query (cross-correlation, no flip).
        backend: one of

            - ``"reference"``: the sum as written;
            - ``"conv"``: one conv2d;
            - ``"banded"``: query x embedding first; saves only its inputs for the backward pass;
            - ``"native"``: the same order as C++ kernels for a CPU, which are compiled on first
              use; where they cannot run, ``"banded"`` is used and the reason is logged once;
            - ``"triton"``: the same order as CUDA kernels; where they cannot run, ``"conv"`` is
              used and the reason is logged once;
            - ``"auto"``: the fastest, which the first call of a kind measures
              (:mod:`lambda_det.layers.autotune`). Under ``torch.compile``, or with the environment
              variable ``LAMBDA_DET_AUTOTUNE=0``, nothing is measured, and
              :func:`lambda_det.layers.choice.choose_backend` chooses.

            While the call is traced or exported, under transforms of ``torch.func``, and with
            tangents of ``torch.autograd.forward_ad``, every back end is computed as ``"conv"``.

    Returns:
        (N, h, v, H, W) in the common dtype of query and value. Sums are taken in at least float32;
        ``"triton"`` rounds q·E and the embedding to that dtype before they are multiplied.

    Raises:
        InputError: the shapes do not fit together, rh or rw is even, or the back end is unknown.
    """
    output = position_sums(query, value, embedding, backend=backend)
    return output.to(common_dtype(query, value))


def position_sums(
    query: Tensor, value: Tensor, embedding: Tensor, *, backend: str, autotune: bool = True
) -> Tensor:
    """:func:`position_lambda` before its result is rounded, for callers that add to the result.

    Args:
        query, value, embedding, backend: as in :func:`position_lambda`.
        autotune: whether ``"auto"`` may measure.

    Returns:
        (N, h, v, H, W) in the common dtype of query and value, but at least float32.
    """
    _check_shapes(query, value, embedding)
    check_choice("backend", backend, BACKEND_NAMES)
    if plain_operators(query, value, embedding):
        # The window is not cropped, which would read a size; values outside the image are zero.
        backend = "conv"
    else:
        embedding = _crop_to_image(embedding, height=query.shape[-2], width=query.shape[-1])
    if backend == "auto":
        measured = None
        if autotune and not torch.compiler.is_compiling():
            measured = measured_backend(query, value, embedding, BACKENDS)
        backend = measured or choose_backend(query, value, embedding)
    if backend == "triton" and (reason := unsupported(query, value, embedding)) is not None:
        # On the meta device nothing is computed, so there is nothing to warn of; in a compiled
        # function a log call would break the graph.
        if not (query.is_meta or torch.compiler.is_compiling()):
            log_fallback(reason, "conv")
        backend = "conv"
    if backend == "native":
        reason = native_lambda.unsupported(query, value, embedding)
        if reason is not None:
            native_lambda.log_fallback(reason, "banded")
            backend = "banded"
    with without_autocast(query):
        output = BACKENDS[backend](query, value, embedding)
    return output.to(at_least_float32(common_dtype(query, value)))


def _check_shapes(query: Tensor, value: Tensor, embedding: Tensor) -> None:
    shapes = (
        f"query {tuple(query.shape)}, value {tuple(value.shape)}, "
        f"embedding {tuple(embedding.shape)}"
    )
    if query.dim() != 5 or value.dim() != 5 or embedding.dim() != 4:
        raise InputError(f"{shapes}: expected (N, h, k, H, W), (N, u, v, H, W) and (k, u, rh, rw)")
    if query.shape[0] != value.shape[0] or query.shape[-2:] != value.shape[-2:]:
        raise InputError(f"{shapes}: query and value differ in N, H or W")
    if embedding.shape[0] != query.shape[2] or embedding.shape[1] != value.shape[1]:
        raise InputError(f"{shapes}: the first axes of embedding must be query's k and value's u")
    if embedding.shape[2] % 2 == 0 or embedding.shape[3] % 2 == 0:
        raise InputError(f"{shapes}: rh and rw of the embedding (k, u, rh, rw) must be odd")


def _crop_to_image(embedding: Tensor, *, height: int, width: int) -> Tensor:
    """Drop the offsets that lead outside the image from every position.

    For a global scope this slices the relative table to a smaller input.
    """
    rows, columns = embedding.shape[-2:]
    cut_y = rows // 2 - (height - 1) if is_known(height - 1 < rows // 2) else 0
    cut_x = columns // 2 - (width - 1) if is_known(width - 1 < columns // 2) else 0
    return embedding[..., cut_y : rows - cut_y, cut_x : columns - cut_x]


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "reference": reference,
    "conv": conv,
    "banded": banded,
    "native": native_lambda.native,
    "triton": triton_lambda,
}
"""Back end name -> implementation."""

BACKEND_NAMES = ("auto", *BACKENDS)
