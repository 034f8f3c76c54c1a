"""The position lambda in the paper's order: first the lambdas, then their product with the queries.

The lambdas are the sums of embedding x value (arXiv:2102.08602, section 3). This module holds the
back ends ``"reference"`` and ``"conv"``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.precision import at_least_float32, common_dtype
from lambda_det.layers.recording import plain_operators

LAMBDA_BYTES = 8 * 2**20
"""In inference, ``conv`` computes the lambdas of as many value channels at a time as fit into this
many bytes, and of at least one."""


def reference(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The sum as written, with one shifted copy of the values for each offset of the window.

    The arguments are those of :func:`lambda_det.layers.position_lambda`; the result is in at least
    float32.
    """
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
    """One conv2d with u input and k output channels; v is folded into the batch axis.

    A Conv3d would give the same sum several times slower (pytorch#166643). If no gradient is
    needed, the function works on some of the value channels at a time, so that their lambdas stay
    in the processor's cache. The arguments are those of
    :func:`lambda_det.layers.position_lambda`; the result is in at least float32.
    """
    query, value, embedding = _in_one_type(query, value, embedding)
    with_gradient = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (query, value, embedding)
    )
    if with_gradient or plain_operators(query, value, embedding):
        return torch.einsum("nhkyx,nvkyx->nhvyx", query, _lambdas(value, embedding))
    one_value = query[:, 0].numel() * query.element_size()
    parts = value.split(max(1, LAMBDA_BYTES // max(1, one_value)), dim=2)
    return torch.cat([_apply(query, _lambdas(part, embedding)) for part in parts], dim=2)


def _lambdas(value: Tensor, embedding: Tensor) -> Tensor:
    """The position lambdas (N, v, k, H, W) of all positions."""
    depth = value.shape[2]
    folded = value.transpose(1, 2).flatten(0, 1)
    padding = [embedding.shape[2] // 2, embedding.shape[3] // 2]
    lambdas = F.conv2d(folded, embedding, padding=padding)
    return lambdas.unflatten(0, [-1, depth])  # -1: some exporters would fix the number N


def _apply(query: Tensor, lambdas: Tensor) -> Tensor:
    """Apply the lambdas to the queries; the result (N, h, v, H, W) is summed one k at a time.

    An einsum would run one small matrix product for each position, whose operands lie far apart in
    memory.
    """
    output = query[:, :, None, 0] * lambdas[:, None, :, 0]
    for k in range(1, query.shape[2]):
        output.addcmul_(query[:, :, None, k], lambdas[:, None, :, k])
    return output


def _in_one_type(*tensors: Tensor) -> list[Tensor]:
    """Convert the tensors to their common dtype, at least float32, in which sums are taken."""
    dtype = at_least_float32(common_dtype(*tensors))
    return [tensor.to(dtype) for tensor in tensors]
