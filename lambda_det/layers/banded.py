"""The ``"banded"`` back end: a custom operator with its own backward around ``band_products``.

The operator saves only its inputs query, value and embedding for the backward pass, which computes
everything else again. Because it is one operator (``torch.library.custom_op``), autograd, autocast
and ``torch.compile`` do not look inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers import lambda_first
from lambda_det.layers.band_products import position_backward, position_forward
from lambda_det.layers.memory_layout import is_channels_last
from lambda_det.layers.precision import at_least_float32, common_dtype, without_autocast


def banded(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The position lambda by products of banded matrices (:mod:`lambda_det.layers.band_products`).

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.

    Returns:
        (N, h, v, H, W) in the common dtype of query and value, but at least float32, in which the
        sums are taken. Its memory is channels last if the value's is.
    """
    return _banded(query, value, embedding)


def _new_output(query: Tensor, value: Tensor) -> Tensor:
    batch, heads, _, height, width = query.shape
    channels = value.shape[2]
    dtype = at_least_float32(common_dtype(query, value))
    if is_channels_last(value):
        output = query.new_empty(batch, height, width, heads, channels, dtype=dtype)
        return output.permute(0, 3, 4, 1, 2)
    return query.new_empty(batch, heads, channels, height, width, dtype=dtype)


# PyTorch 2.4 cannot infer the schema from annotations that are strings, as they are under
# `from __future__ import annotations`, so each schema is written out.
@torch.library.custom_op(
    "lambda_det::position_lambda_banded",
    mutates_args=(),
    schema="(Tensor query, Tensor value, Tensor embedding) -> Tensor",
)
def _banded(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    output = _new_output(query, value)
    with without_autocast(query):
        position_forward(query, value, embedding, output)
    return output


@_banded.register_fake
def _(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    return _new_output(query, value)


@torch.library.custom_op(
    "lambda_det::position_lambda_banded_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor query, Tensor value, Tensor embedding)"
    " -> (Tensor, Tensor, Tensor)",
)
def _banded_backward(
    gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    with without_autocast(query):
        return position_backward(gradient, query, value, embedding)


@_banded_backward.register_fake
def _(
    gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(value), torch.empty_like(embedding)


def _save(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    if not torch.is_grad_enabled():
        return _banded_backward(gradient, *ctx.saved_tensors)
    # With create_graph=True this gradient is differentiated again. The operator has no second
    # derivative, so the differentiable operators of "conv" compute the gradient instead.
    saved, needed = ctx.saved_tensors, ctx.needs_input_grad
    wanted = [tensor for tensor, need in zip(saved, needed, strict=True) if need]
    with without_autocast(gradient):
        output = lambda_first.conv(*saved).to(gradient.dtype)
        found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return tuple(next(found) if need else None for need in needed)


_banded.register_autograd(_gradients, setup_context=_save)
