"""Sums and the key softmax are taken in at least float32, whatever the types around them."""

from __future__ import annotations

import pytest
import torch
from layer_helpers import NATIVE
from loop_reference import layer_loop, position_loop
from torch import Tensor

from lambda_det.layers import LambdaLayer, position_lambda

BACKENDS = ("reference", "conv", "banded", "auto", NATIVE)
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
"""Largest relative error of one rounding to the nearest."""


def assert_rounded_once(output: Tensor, expected: Tensor) -> None:
    """Every element is ``expected`` (float64) rounded once, but for float32's error in the sums."""
    error = (output.double() - expected).abs()
    allowed = UNIT_ROUNDOFF[output.dtype] * expected.abs() + 3e-6 * expected.abs().max()
    assert bool((error <= allowed).all()), f"exceeds by {(error - allowed).max().item():.3g}"


def inputs(dtype: torch.dtype, window: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, 4, 5, 6), (1, 2, 3, 5, 6), (4, 2, window, window)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_lose_nothing_but_the_last_rounding(backend: str, dtype: torch.dtype) -> None:
    query, value, embedding = inputs(dtype)
    output = position_lambda(query, value, embedding, backend=backend)
    assert output.dtype == dtype
    assert_rounded_once(output, position_loop(query, value, embedding))


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_equal_terms_in_bfloat16(backend: str) -> None:
    # Ones added one at a time in bfloat16 stop at 256; the window holds 529 of them.
    ones = torch.ones(1, 1, 1, 23, 23, dtype=torch.bfloat16)
    output = position_lambda(ones, ones, ones[0], backend=backend)
    assert output[0, 0, 0, 11, 11].item() == 528  # 529 in the nearest bfloat16


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_does_not_overflow_on_the_way(backend: str) -> None:
    ones = torch.ones(1, 1, 1, 23, 23, dtype=torch.float16)
    # The lambda is 529 * 100 * 10 = 529000, beyond float16; the query brings it back to 529.
    output = position_lambda(ones * 2**-10, ones * 128, ones[0] * 8, backend=backend)
    assert output[0, 0, 0, 11, 11].item() == 529


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_leaves_float32_sums_alone(backend: str) -> None:
    query, value, embedding = inputs(torch.float32)
    expected = position_loop(query, value, embedding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_lambda(query, value, embedding, backend=backend)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_features_with_a_float32_embedding() -> None:
    # What a layer sees under autocast: convolutions give bfloat16, parameters stay float32.
    query, value, embedding = inputs(torch.float32)
    query, value = query.bfloat16(), value.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_lambda(query, value, embedding)
    assert output.dtype == torch.bfloat16
    assert_rounded_once(output, position_loop(query, value, embedding))


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_layer_under_autocast(norm: str) -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(16, scope=5, query_depth=4, norm=norm).eval()
    x = torch.randn(2, 16, 5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    expected = layer_loop(layer, x)
    assert output.shape == x.shape and output.isfinite().all()
    # The projections themselves are in bfloat16: 8 bits of q, v and k.
    assert (output.double() - expected).norm() < 0.02 * expected.norm()


def test_layer_under_autocast_trains() -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(16, scope=5, query_depth=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = layer(torch.randn(2, 16, 5, 7)).float().square().mean()
    loss.backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("position", [False, *BACKENDS])
def test_a_bfloat16_layer_rounds_its_sum_and_nothing_else(
    position: str | bool, autocast: bool
) -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(
        16, query_depth=4, num_heads=2, norm="", scope=5, position=bool(position),
        backend=position or "auto",
    ).bfloat16()  # fmt: skip
    x = torch.randn(1, 16, 11, 13).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = layer(x)
    assert output.dtype == torch.bfloat16
    # The projections as the layer rounds them, then everything else in float64.
    query = layer.query(x).double().view(2, 4, -1)
    key = layer.key(x).double().view(4, -1).softmax(-1)
    content_lambda = key @ layer.value(x).double().view(8, -1).T
    expected = torch.einsum("hkp,kv->hvp", query, content_lambda).reshape(1, 16, 11, 13)
    if position:
        value = layer.value(x).unflatten(1, (1, 8))
        part = position_loop(query.view(1, 2, 4, 11, 13), value, layer.embedding)
        expected = expected + part.flatten(1, 2)
    assert_rounded_once(output, expected)


def test_what_docs_training_says_of_the_parts_at_initialisation() -> None:
    """At the map of res4 of an 800 x 1344 image, for features of unit variance."""
    torch.manual_seed(0)
    layer, x = LambdaLayer(256).train(), torch.randn(2, 256, 50, 84)
    with torch.no_grad():
        whole = layer(x)
        layer.content = False
        position = layer(x)
        layer.content, layer.position = True, False
        content = layer(x)
    assert 75 < position.std() < 95
    assert 0.1 < content.std() < 0.4
    bfloat16, float16 = (
        (whole.to(dtype).float() - whole).square().mean().sqrt()
        for dtype in (torch.bfloat16, torch.float16)
    )
    assert 0.12 < bfloat16 < 0.16 and float16 * 7.5 < bfloat16 < float16 * 8.5
