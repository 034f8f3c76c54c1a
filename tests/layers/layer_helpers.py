"""What several tests of the lambda layer need."""

from __future__ import annotations

import pytest
import torch
from loop_reference import layer_loop, randomise_norms

from lambda_det.layers import LambdaLayer

NATIVE = pytest.param("native", marks=pytest.mark.slow)
"""This back end as one of several in a test. conftest.py compiles its kernels for that test."""


def make_layer(in_channels: int = 8, *args, seed: int = 0, **kwargs) -> LambdaLayer:
    """A small layer in float64 and evaluation mode, with norms that are neither 0 nor 1."""
    torch.manual_seed(seed)
    kwargs = {"query_depth": 3, "scope": 3} | kwargs
    layer = LambdaLayer(in_channels, *args, **kwargs).double()
    randomise_norms(layer)
    return layer.eval()


def image(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corner_mask(heights: list[int], widths: list[int], size: tuple[int, int]) -> torch.Tensor:
    """Images in the upper left corner of a batch, as detectron2 pads them: True = padding."""
    mask = torch.ones(len(heights), *size, dtype=torch.bool)
    for n, (height, width) in enumerate(zip(heights, widths, strict=True)):
        mask[n, :height, :width] = False
    return mask


def assert_equals_loop(
    layer: LambdaLayer, x: torch.Tensor, padding_mask: torch.Tensor | None = None
) -> None:
    expected = layer_loop(layer, x, padding_mask)  # first: training moves running statistics
    torch.testing.assert_close(layer(x, padding_mask), expected, rtol=1e-11, atol=1e-11)
