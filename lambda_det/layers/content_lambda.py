"""The content lambda of LambdaNetworks (arXiv:2102.08602, section 3), applied to the queries."""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers.memory_layout import is_channels_last
from lambda_det.layers.precision import at_least_float32, common_dtype, without_autocast
from lambda_det.layers.recording import plain_operators


def content_lambda(query: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """Apply the content lambda of each image to all queries of that image.

    Args:
        query: (N, h, k, H, W).
        weights: (N, u, k, H * W), the normalised keys.
        value: (N, u, v, H, W).

    Returns:
        (N, h, v, H, W) in the common dtype of the arguments, but at least float32, in which the
        sums are taken. Its memory is channels last if the queries' is, otherwise contiguous.
    """
    if plain_operators(query, weights, value):
        # fvcore counts the multiply-adds of these two einsums correctly; it does not count a
        # broadcast product.
        dtype = at_least_float32(common_dtype(query, weights, value))
        query, weights, value = (tensor.to(dtype) for tensor in (query, weights, value))
        lambdas = torch.einsum("nukm,nuvm->nkv", weights, value.flatten(-2))
        return torch.einsum("nhkyx,nkv->nhvyx", query, lambdas)
    # The sum over u and over the positions is one sum: u and the positions become one axis.
    keys = weights.transpose(1, 2).flatten(2)
    values = value.flatten(-2).transpose(1, 2).flatten(2)
    lambdas = _product(values, keys.transpose(1, 2))
    if is_channels_last(query):
        queries = query.permute(0, 3, 4, 1, 2).flatten(1, 3)  # position and head, k
        output = _product(queries, lambdas.transpose(1, 2))
        output = output.unflatten(1, (*query.shape[-2:], query.shape[1]))
        return output.permute(0, 3, 4, 1, 2)
    return _product(lambdas[:, None], query.flatten(-2)).unflatten(-1, query.shape[-2:])


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product of ``left`` and ``right``, computed in at least float32."""
    dtype = at_least_float32(common_dtype(left, right))
    if left.dtype == right.dtype == dtype:
        return left @ right
    return _ProductOfHalves.apply(left, right, dtype)


class _ProductOfHalves(torch.autograd.Function):
    """A matrix product in float32 that saves its half-precision factors for the backward pass.

    Autograd would save the factors that were converted to float32, which take twice the memory.
    """

    @staticmethod
    def forward(ctx, left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(left, right)
        return left.to(dtype) @ right.to(dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        left, right = ctx.saved_tensors
        to_left = to_right = None
        with without_autocast(gradient):
            if ctx.needs_input_grad[0]:
                to_left = gradient @ right.to(gradient.dtype).mT
                to_left = to_left.sum_to_size(left.shape).to(left.dtype)
            if ctx.needs_input_grad[1]:
                to_right = left.to(gradient.dtype).mT @ gradient
                to_right = to_right.sum_to_size(right.shape).to(right.dtype)
        return to_left, to_right, None
