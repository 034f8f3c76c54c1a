"""The position lambda as the paper writes it: sum embedding x value, then apply to the queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.precision import at_least_float32, common_dtype
from lambda_det.layers.recording import plain_operators

LAMBDA_BYTES = 8 * 2**20
"""Most memory for lambdas that are not kept, where those of one v need no more."""


def reference(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The sum as written: one shifted copy of the values for each offset of the window."""
    query, value, embedding = _in_one_type(query, value, embedding)
    rows, columns = embedding.shape[-2:]
    height, width = value.shape[-2:]
    padded = F.pad(value, (columns // 2, columns // 2, rows // 2, rows // 2))
    lambdas = 0
    for y in range(rows):
        for x in range(columns):
            shifted = padded[..., y : y + height, x : x + width]
            lambdas = lambdas + torch.einsum("ku,nuvyx->nkvyx", embedding[..., y, x], shifted)
    return torch.einsum("nhkyx,nkvyx->nhvyx", query, lambdas)


def conv(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """One conv2d with u input and k output channels, v folded into the batch.

    Never a Conv3d: the same sum is several times slower there (reference: pytorch#166643). Where no
    gradient is wanted, some of the v are done at a time, so that their lambdas stay in the cache.
    """
    query, value, embedding = _in_one_type(query, value, embedding)
    with_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (query, value, embedding)
    )
    if with_gradient or plain_operators():
        return torch.einsum("nhkyx,nvkyx->nhvyx", query, _lambdas(value, embedding))
    one_value = query[:, 0].numel() * query.element_size()
    parts = value.split(max(1, LAMBDA_BYTES // max(1, one_value)), dim=2)
    return torch.cat([_apply(query, _lambdas(part, embedding)) for part in parts], dim=2)


def _lambdas(value: Tensor, embedding: Tensor) -> Tensor:
    """(N, v, k, H, W)."""
    depth = value.shape[2]
    folded = value.transpose(1, 2).flatten(0, 1)
    # Odd windows: on either side half of what is not the middle.
    padding = [embedding.shape[2] // 2, embedding.shape[3] // 2]
    lambdas = F.conv2d(folded, embedding, padding=padding)
    return lambdas.unflatten(0, [-1, depth])  # no size by its number: some exporters keep those


def _apply(query: Tensor, lambdas: Tensor) -> Tensor:
    """(N, h, v, H, W): the sum over k, one k at a time.

    An einsum would multiply one small matrix for each position, copied or not from far apart.
    """
    output = query[:, :, None, 0] * lambdas[:, None, :, 0]
    for k in range(1, query.shape[2]):
        output.addcmul_(query[:, :, None, k], lambdas[:, None, :, k])
    return output


def _in_one_type(*tensors: Tensor) -> list[Tensor]:
    """In the type that sums are taken in."""
    dtype = at_least_float32(common_dtype(*tensors))
    return [tensor.to(dtype) for tensor in tensors]
