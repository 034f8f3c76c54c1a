"""The position lambda as the paper writes it: sum embedding x value, then apply to the queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.precision import at_least_float32, common_dtype


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

    Never a Conv3d: the same sum is several times slower there (reference: pytorch#166643).
    """
    query, value, embedding = _in_one_type(query, value, embedding)
    batch, intra_depth, depth, height, width = value.shape
    rows, columns = embedding.shape[-2:]
    folded = value.transpose(1, 2).reshape(batch * depth, intra_depth, height, width)
    lambdas = F.conv2d(folded, embedding, padding=(rows // 2, columns // 2))
    lambdas = lambdas.unflatten(0, (batch, depth))
    return torch.einsum("nhkyx,nvkyx->nhvyx", query, lambdas)


def _in_one_type(*tensors: Tensor) -> list[Tensor]:
    """In the type that sums are taken in."""
    dtype = at_least_float32(common_dtype(*tensors))
    return [tensor.to(dtype) for tensor in tensors]
