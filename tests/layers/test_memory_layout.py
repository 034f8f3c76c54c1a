"""Channels last through a whole layer, and the memory order of gradients."""

from __future__ import annotations

import pytest
import torch
from loop_reference import randomise_norms
from torch import Tensor

from lambda_det.layers import LambdaLayer


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
