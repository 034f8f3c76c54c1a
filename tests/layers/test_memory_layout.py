"""Channels last through a whole layer, and the memory order of gradients."""

from __future__ import annotations

import pytest
import torch
from loop_reference import randomise_norms
from torch import Tensor

from lambda_det.layers import LambdaLayer
from lambda_det.layers.memory_layout import guard_gradient, is_channels_last


def results(layer: LambdaLayer, x: Tensor, weight: Tensor, layout) -> list[Tensor]:
    """Output and all gradients, the input and the output's gradient being in this layout."""
    leaf = x.detach().clone().contiguous(memory_format=layout).requires_grad_()
    output = layer(leaf)
    gradient = weight.contiguous(memory_format=layout)
    return [output, *torch.autograd.grad(output, [leaf, *layer.parameters()], gradient)]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("backend", ["reference", "conv", "banded"])
@pytest.mark.parametrize(
    "size", [(2, 8, 3, 5), (1, 8, 3, 5), (2, 8, 1, 5), (2, 8, 3, 1), (3, 8, 1, 1)], ids=str
)
def test_layout_changes_no_number(size: tuple, backend: str, training: bool) -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(8, query_depth=3, scope=3, backend=backend).double().train(training)
    randomise_norms(layer)
    x, weight = torch.randn(2, *size, dtype=torch.float64)
    first = results(layer, x, weight, torch.contiguous_format)
    last = results(layer, x, weight, torch.channels_last)
    for found, wanted in zip(last, first, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layout_stays(layout, batch: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(16, query_depth=4, scope=5, backend="banded")
    x = torch.randn(batch, 16, 6, 9)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        output, gradient, *_ = results(layer, x, x.to(dtype), layout)
    assert output.dtype == dtype
    assert output.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)


def test_which_gradients_are_put_in_order() -> None:
    def is_guarded(*shape: int, device: str = "cpu") -> bool:
        x = torch.zeros(shape, device=device, requires_grad=True)
        guard_gradient(x)
        return bool(x._backward_hooks)

    assert is_guarded(1, 2, 3, 4, 5) and is_guarded(2, 2, 3, 1, 5) and is_guarded(2, 2, 3, 4, 1)
    assert not is_guarded(2, 1, 1, 4, 5)
    assert not is_guarded(1, 2, 3, 4, 5, device="meta")
    guard_gradient(torch.zeros(1, 2, 3, 4, 5))  # no gradient is wanted


@pytest.mark.parametrize("last", [False, True])
def test_a_gradient_gets_the_layout_of_its_tensor(last: bool) -> None:
    x = torch.randn(1, 6, 4, 5, requires_grad=True)
    layout = torch.channels_last if last else torch.contiguous_format
    inner = (x * 1).contiguous(memory_format=layout).unflatten(1, (2, 3))
    guard_gradient(inner)
    seen = []
    inner.register_hook(seen.append)
    weight = torch.randn(5, 4, 1, 3, 2).permute(2, 4, 3, 1, 0)  # of neither layout
    (gradient,) = torch.autograd.grad(inner, x, weight)
    assert is_channels_last(seen[0]) == last and (last or seen[0].is_contiguous())
    assert torch.equal(gradient, weight.flatten(1, 2))
