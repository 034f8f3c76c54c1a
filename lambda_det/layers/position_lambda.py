"""The position lambda of LambdaNetworks (arXiv:2102.08602, section 3) as one exact function.

    y[n,h,v,p] = sum_k q[n,h,k,p] sum_u sum_d E[k,u,d] V[n,u,v,p+d]

with zeros outside the image. Every back end gives the same numbers; they differ in speed and
memory only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.errors import InputError
from lambda_det.layers.precision import at_least_float32, common_dtype, without_autocast


def position_lambda(
    query: Tensor, value: Tensor, embedding: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Apply to every query the position lambda of its neighbourhood.

    Args:
        query: (N, h, k, H, W), h heads of depth k.
        value: (N, u, v, H, W), intra-depth u and v channels per head.
        embedding: (k, u, rh, rw), rh and rw odd. Entry ``[..., rh // 2 + dy, rw // 2 + dx]`` weighs
            the value at offset (dy, dx) from the query (cross-correlation, no flip).
        backend: ``"reference"`` (the sum as written), ``"conv"`` (one conv2d), ``"banded"``,
            ``"triton"`` or ``"auto"`` (picks one).

    Returns:
        (N, h, v, H, W) in the common type of query and value. Sums are taken in at least float32.

    Raises:
        InputError: shapes that do not fit together, an even window, an unknown back end.
        NotImplementedError: a back end that this version does not have.
    """
    _check_shapes(query, value, embedding)
    if backend not in BACKENDS:
        allowed = ", ".join(repr(name) for name in BACKENDS)
        raise InputError(f"backend={backend!r}: expected one of {allowed}")
    implementation = BACKENDS[backend]
    if implementation is None:
        raise NotImplementedError(f"backend {backend!r} of position_lambda is not implemented yet")

    output_dtype = common_dtype(query, value)
    dtype = at_least_float32(common_dtype(query, value, embedding))
    embedding = _crop_to_image(embedding, height=query.shape[-2], width=query.shape[-1])
    with without_autocast(query):
        output = implementation(query.to(dtype), value.to(dtype), embedding.to(dtype))
    return output.to(output_dtype)


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
        raise InputError(f"{shapes}: embedding does not start with query's k, value's u")
    if embedding.shape[2] % 2 == 0 or embedding.shape[3] % 2 == 0:
        raise InputError(f"{shapes}: the window of the embedding must be odd")


def _crop_to_image(embedding: Tensor, *, height: int, width: int) -> Tensor:
    """Leave out offsets that lead outside the image from every position.

    This also slices the relative table of a global scope for a smaller input.
    """
    rows, columns = embedding.shape[-2:]
    cut_y = max(0, rows // 2 - (height - 1))
    cut_x = max(0, columns // 2 - (width - 1))
    return embedding[..., cut_y : rows - cut_y, cut_x : columns - cut_x]


def _reference(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The sum as written: one shifted copy of the values for each offset of the window."""
    rows, columns = embedding.shape[-2:]
    height, width = value.shape[-2:]
    padded = F.pad(value, (columns // 2, columns // 2, rows // 2, rows // 2))
    lambdas = 0
    for y in range(rows):
        for x in range(columns):
            shifted = padded[..., y : y + height, x : x + width]
            lambdas = lambdas + torch.einsum("ku,nuvyx->nkvyx", embedding[..., y, x], shifted)
    return torch.einsum("nhkyx,nkvyx->nhvyx", query, lambdas)


def _conv(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """One conv2d with u input and k output channels, v folded into the batch.

    Never a Conv3d: the same sum is several times slower there (reference: pytorch#166643).
    """
    batch, intra_depth, depth, height, width = value.shape
    rows, columns = embedding.shape[-2:]
    folded = value.transpose(1, 2).reshape(batch * depth, intra_depth, height, width)
    lambdas = F.conv2d(folded, embedding, padding=(rows // 2, columns // 2))
    lambdas = lambdas.unflatten(0, (batch, depth))
    return torch.einsum("nhkyx,nvkyx->nhvyx", query, lambdas)


_Backend = Callable[[Tensor, Tensor, Tensor], Tensor]

BACKENDS: dict[str, _Backend | None] = {
    "auto": _conv,
    "reference": _reference,
    "conv": _conv,
    "banded": None,
    "triton": None,
}
"""Back end name -> implementation; None for one that this version does not have."""
