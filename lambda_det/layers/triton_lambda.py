"""The ``"triton"`` back end of the position lambda: CUDA kernels that never store the lambdas.

    y[n,h,v,p] = sum_u,d (sum_k q[n,h,k,p] E[k,u,d]) V[n,u,v,p+d]

With q·E first, the sum takes h (k + v) multiplications for each position and offset instead of k v,
but all of them are matrix products, which run on tensor cores. Products are taken in the common
dtype of query and value, sums and the output in float32. In half precision q·E is rounded once to
that dtype, and so is the gradient of the output. Only query, value and embedding are saved for the
backward pass.

Importing this module does not import Triton; the first call does.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os

import torch
from torch import Tensor

from lambda_det.layers.lambda_first import conv
from lambda_det.layers.precision import at_least_float32, common_dtype, without_autocast
from lambda_det.layers.triton_plan import Plan, make_plan

INSTALLED = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels, slowly but on any device. The environment variable
must be set before this module is imported."""

MIN_CAPABILITY = (8, 0)
"""Compute capability of the first CUDA devices with tensor cores for bfloat16."""

ON_ROCM = bool(torch.version.hip)  # on ROCm, tensor.is_cuda is True as well
_logger = logging.getLogger(__name__)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unsupported(query: Tensor, value: Tensor, embedding: Tensor) -> str | None:
    """The reason why this back end cannot compute ``position_lambda`` of these arguments.

    Returns:
        A clause for a log line, or None if the back end can compute it.
    """
    if not INSTALLED:
        return "Triton is not installed"
    dtype = torch.promote_types(query.dtype, value.dtype)
    if dtype not in _DTYPES or embedding.dtype not in _DTYPES:
        return f"it takes float32 and half types, not {dtype} with {embedding.dtype} embeddings"
    if min(query.numel(), value.numel(), embedding.numel()) == 0:
        return "a tensor is empty"
    if INTERPRETED:
        if dtype == torch.bfloat16:
            return "Triton's interpreter has no products in torch.bfloat16"
        return None
    if not query.is_cuda or ON_ROCM:
        return f"it needs CUDA, the tensors are on {'rocm' if query.is_cuda else query.device.type}"
    capability = torch.cuda.get_device_capability(query.device)
    if capability < MIN_CAPABILITY:
        return f"it needs compute capability {MIN_CAPABILITY} or later, the GPU has {capability}"
    return None


@functools.cache
def log_fallback(reason: str, backend: str) -> None:
    """Warn that ``backend`` is used instead of ``"triton"``, once for each reason."""
    _logger.warning(
        "backend 'triton' of position_lambda cannot run (%s); %r is used instead", reason, backend
    )


def triton_lambda(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The position lambda by Triton kernels, for arguments that :func:`unsupported` accepts.

    Args:
        query, value: as in :func:`lambda_det.layers.position_lambda`. Channels-last memory
            (N, H, W, channels) saves copies.
        embedding: (k, u, rh, rw) of any supported dtype. It is rounded to the common dtype of query
            and value; its gradient is not.

    Returns:
        (N, h, v, H, W) in float32, a view of contiguous (N, H, W, h, v).
    """
    dtype = common_dtype(query, value)
    return _forward(query.to(dtype), value.to(dtype), embedding).permute(0, 3, 4, 1, 2)


def plan_for(query: Tensor, value: Tensor, embedding: Tensor) -> Plan:
    """The plan (tile sizes) with which the kernels run for these arguments. It imports Triton."""
    from lambda_det.layers import triton_fused

    return make_plan(
        heads=query.shape[1],
        depth=query.shape[2],
        sets=value.shape[1],
        height=query.shape[3],
        channels=value.shape[2],
        columns=embedding.shape[3],
        dtype=query.dtype,
        fuse=triton_fused.COMPILES,
    )


# torch.compile treats a custom operator as one node of the graph and does not trace the launches.
@torch.library.custom_op(
    "lambda_det::triton_lambda",
    mutates_args=(),
    schema="(Tensor query, Tensor value, Tensor embedding) -> Tensor",
)
def _forward(query, value, embedding):
    from lambda_det.layers import triton_launch

    with without_autocast(query):
        plan = plan_for(query, value, embedding)
        return triton_launch.forward(query, value, embedding, plan)


@_forward.register_fake
def _(query, value, embedding):
    images, heads, _, height, width = query.shape
    shape = (images, height, width, heads, value.shape[2])
    return query.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "lambda_det::triton_lambda_backward",
    mutates_args=(),
    schema="(Tensor query, Tensor value, Tensor embedding, Tensor output_gradient)"
    " -> (Tensor, Tensor, Tensor)",
)
def _backward(query, value, embedding, output_gradient):
    from lambda_det.layers import triton_launch

    with without_autocast(query):
        plan = plan_for(query, value, embedding)
        output_gradient = output_gradient.to(query.dtype).contiguous()
        return triton_launch.backward(query, value, embedding, output_gradient, plan)


@_backward.register_fake
def _(query, value, embedding, output_gradient):
    images, heads, depth, height, width = query.shape
    return (
        query.new_empty(images, height, width, heads, depth),
        value.new_empty(images, height, width, *value.shape[1:3]),
        torch.empty_like(embedding, memory_format=torch.contiguous_format),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _first_derivative(ctx, output_gradient):
    query, value, embedding = _backward(*ctx.saved_tensors, output_gradient)
    return query.permute(0, 3, 4, 1, 2), value.permute(0, 3, 4, 1, 2), embedding


def _second_derivative(ctx, *directions):
    """The backward of ``_backward``, computed with ``"conv"``, which PyTorch can differentiate."""
    with torch.enable_grad():
        query, value, embedding, output_gradient = (
            tensor.detach().requires_grad_() for tensor in ctx.saved_tensors
        )
        with without_autocast(query):
            output = conv(query, value, embedding)
        output = output.to(at_least_float32(common_dtype(query, value))).permute(0, 3, 4, 1, 2)
        gradients = torch.autograd.grad(
            output, (query, value, embedding), output_gradient, create_graph=True
        )
        query_gradient, value_gradient, embedding_gradient = gradients
        return torch.autograd.grad(
            (
                query_gradient.permute(0, 3, 4, 1, 2),
                value_gradient.permute(0, 3, 4, 1, 2),
                embedding_gradient,
            ),
            (query, value, embedding, output_gradient),
            directions,
        )


_forward.register_autograd(_first_derivative, setup_context=_save)
_backward.register_autograd(_second_derivative, setup_context=_save)
