"""The content lambda against a sum written out, its layout, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lambda_det.layers import LambdaLayer
from lambda_det.layers.content_lambda import content_lambda


def tensors(u: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(u)
    shapes = (2, 3, 4, 5, 7), (2, u, 4, 35), (2, u, 6, 5, 7)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def expected(query: Tensor, weights: Tensor, value: Tensor) -> Tensor:
    """The sum over positions and sets, one by one."""
    output = torch.zeros(2, 3, 6, 5, 7, dtype=torch.float64)
    for n in range(2):
        lambdas = torch.zeros(4, 6, dtype=torch.float64)
        for u in range(weights.shape[1]):
            for m in range(35):
                lambdas += torch.outer(weights[n, u, :, m], value[n, u].flatten(1)[:, m])
        for h in range(3):
            output[n, h] = torch.einsum("kyx,kv->vyx", query[n, h], lambdas)
    return output


def last(x: Tensor) -> Tensor:
    return x.flatten(1, 2).to(memory_format=torch.channels_last).unflatten(1, x.shape[1:3])


@pytest.mark.parametrize("u", [1, 3])
def test_equals_the_sum(u: int) -> None:
    query, weights, value = tensors(u)
    output = content_lambda(query, weights, value)
    assert output.is_contiguous()
    torch.testing.assert_close(output, expected(query, weights, value))
    output = content_lambda(last(query), weights, last(value))
    assert output.flatten(1, 2).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected(query, weights, value))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, last])
@pytest.mark.parametrize("u", [1, 3])
def test_gradients_of_bfloat16(u: int, layout) -> None:
    query, weights, value = tensors(u, torch.bfloat16)
    inputs = [layout(query), weights.float(), layout(value)]
    weight = torch.randn(2, 3, 6, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    exact = [t.double().requires_grad_() for t in inputs]
    wanted = torch.autograd.grad(expected(*exact), exact, weight)
    leaves = [t.requires_grad_() for t in inputs]
    output = content_lambda(*leaves)
    assert output.dtype == torch.float32
    found = torch.autograd.grad(output, leaves, weight.float())
    for gradient, true, leaf in zip(found, wanted, leaves, strict=True):
        assert gradient.dtype == leaf.dtype
        rounding = 2**-8 if leaf.dtype == torch.bfloat16 else 0
        sums = 3e-6 * true.abs().max().item()  # float32's error
        torch.testing.assert_close(gradient.double(), true, rtol=rounding, atol=sums)


def test_halves_are_kept_as_they_came() -> None:
    query, weights, value = tensors(1, torch.bfloat16)
    leaves = [query.requires_grad_(), weights.float().requires_grad_(), value.requires_grad_()]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = content_lambda(*leaves)
    lambdas = 4 * 2 * 4 * 6
    assert sum(kept.values()) == sum(leaf.nbytes for leaf in leaves) + lambdas
    del output


def test_halves_under_autocast_in_the_backward_pass() -> None:
    query, weights, value = tensors(1, torch.bfloat16)
    leaves = [query.requires_grad_(), weights.float().requires_grad_(), value.requires_grad_()]
    output = content_lambda(*leaves)
    weight = torch.randn_like(output)
    wanted = torch.autograd.grad(output, leaves, weight, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(output, leaves, weight)
    assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_second_derivative(dtype: torch.dtype) -> None:
    found = []
    for function in (content_lambda, expected):
        leaves = [t.to(dtype).requires_grad_() for t in tensors(2)]
        exact = leaves if function is content_lambda else [t.double() for t in leaves]
        output = function(*exact).double()
        gradients = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        loss = sum(gradient.double().square().sum() for gradient in gradients)
        found.append(torch.autograd.grad(loss, leaves))
    for ours, wanted in zip(*found, strict=True):
        error = (ours.double() - wanted.double()).norm() / wanted.double().norm()
        assert error < (2e-2 if dtype == torch.bfloat16 else 1e-12)


def test_only_what_needs_a_gradient_gets_one() -> None:
    query, weights, value = tensors(1, torch.bfloat16)
    output = content_lambda(query, weights.float(), value.requires_grad_())
    assert torch.autograd.grad(output.sum(), value)[0].shape == value.shape


@pytest.mark.slow
def test_halves_compile_to_one_graph() -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(8, query_depth=3, scope=5, norm="GN", backend="banded")
    x = torch.randn(2, 8, 6, 17)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    gradients = []
    for function in (layer, compiled):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = function(x)
        output.float().square().mean().backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    for eager, one_graph in zip(*gradients, strict=True):
        assert (eager - one_graph).norm() < 0.02 * eager.norm()
