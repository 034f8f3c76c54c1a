"""A form of the position lambda as an operator of PyTorch with its own backward pass.

The operator saves only its inputs query, value and embedding for the backward pass, which computes
everything else again. Because it is one operator (``torch.library.custom_op``), autograd, autocast
and ``torch.compile`` do not look inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lambda_det.layers import lambda_first
from lambda_det.layers.memory_layout import is_channels_last
from lambda_det.layers.precision import at_least_float32, common_dtype, without_autocast


def position_operator(
    name: str,
    forward: Callable[[Tensor, Tensor, Tensor, Tensor], None],
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Register the operators ``lambda_det::position_lambda_<name>`` and ``..._backward``.

    Args:
        name: name of the back end.
        forward: a function of query, value, embedding and output, which it writes.
        backward: a function of the output's gradient, query, value and embedding; it returns the
            gradients of the last three, each with the shape, dtype and strides of
            ``torch.empty_like`` of its tensor.

    Returns:
        The function of query, value and embedding, as in
        :func:`lambda_det.layers.position_lambda`. Its output (N, h, v, H, W) is in the common dtype
        of query and value, but at least float32. Its memory is channels last if the value's is.
    """

    # PyTorch 2.4 cannot infer the schema from annotations that are strings, as they are under
    # `from __future__ import annotations`, so each schema is written out.
    @torch.library.custom_op(
        f"lambda_det::position_lambda_{name}",
        mutates_args=(),
        schema="(Tensor query, Tensor value, Tensor embedding) -> Tensor",
    )
    def operator(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
        output = _new_output(query, value)
        with without_autocast(query):
            forward(query, value, embedding, output)
        return output

    @operator.register_fake
    def _(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
        return _new_output(query, value)

    @torch.library.custom_op(
        f"lambda_det::position_lambda_{name}_backward",
        mutates_args=(),
        schema="(Tensor gradient, Tensor query, Tensor value, Tensor embedding)"
        " -> (Tensor, Tensor, Tensor)",
    )
    def operator_backward(
        gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with without_autocast(query):
            return backward(gradient, query, value, embedding)

    @operator_backward.register_fake
    def _(
        gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(query), torch.empty_like(value), torch.empty_like(embedding)

    def save(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def gradients(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return operator_backward(gradient, *ctx.saved_tensors)
        return _differentiable_gradients(ctx, gradient)

    operator.register_autograd(gradients, setup_context=save)
    _register_flops(name)
    return operator


def _register_flops(name: str) -> None:
    """Tell ``torch.utils.flop_counter`` the operations of both passes, with q·E first."""
    operators = torch.ops.lambda_det

    @register_flop_formula(getattr(operators, f"position_lambda_{name}"))
    def _(query, value, embedding, *_args, **_others) -> int:
        return _operations(query, embedding, embedding[0] + value[2])

    @register_flop_formula(getattr(operators, f"position_lambda_{name}_backward"))
    def _(_gradient, query, value, embedding, *_args, **_others) -> int:
        return _operations(query, embedding, 3 * embedding[0] + 2 * value[2])


def _operations(query: torch.Size, embedding: torch.Size, for_each: int) -> int:
    """Two for each multiply-add, with ``for_each`` of them for a query and an offset. The window
    counts in full, also beyond the image."""
    batch, heads, _, height, width = query
    return 2 * batch * heads * height * width * math.prod(embedding[1:]) * for_each


def _new_output(query: Tensor, value: Tensor) -> Tensor:
    batch, heads, _, height, width = query.shape
    channels = value.shape[2]
    dtype = at_least_float32(common_dtype(query, value))
    if is_channels_last(value):
        output = query.new_empty(batch, height, width, heads, channels, dtype=dtype)
        return output.permute(0, 3, 4, 1, 2)
    return query.new_empty(batch, heads, channels, height, width, dtype=dtype)


def _differentiable_gradients(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients where they are differentiated again, with ``create_graph=True``.

    The operator has no second derivative, so the differentiable operators of ``"conv"`` compute
    them instead.
    """
    saved, needed = ctx.saved_tensors, ctx.needs_input_grad
    wanted = [tensor for tensor, need in zip(saved, needed, strict=True) if need]
    with without_autocast(gradient):
        output = lambda_first.conv(*saved).to(gradient.dtype)
        found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return tuple(next(found) if need else None for need in needed)
