"""The Triton kernels against float64: run by test_triton_lambda.py in a process of its own.

``TRITON_INTERPRET`` must be set before the kernels are defined, and holds for all of a process:
with it this runs on the CPU at small sizes, without it on a GPU.
"""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from torch import Tensor

from lambda_det.layers import LambdaLayer, position_lambda, triton_lambda, triton_plan
from lambda_det.layers.position_lambda import position_sums

LIGHT = "lambda_det.layers.triton_kernels" not in sys.modules
INTERPRETED = triton_lambda.INTERPRETED
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])

# N, h, u, k, v, H, W, rh, rw
SMALL = [
    pytest.param(2, 2, 1, 3, 2, 4, 6, 3, 3, id="even-sizes"),
    pytest.param(1, 1, 1, 1, 1, 1, 1, 1, 1, id="one-number"),
    pytest.param(1, 4, 1, 2, 3, 5, 3, 3, 3, id="odd-sizes-HgtW"),
    pytest.param(1, 3, 2, 4, 17, 3, 9, 5, 5, id="three-heads-u2"),
    pytest.param(1, 2, 1, 2, 2, 2, 3, 23, 23, id="image-within-scope"),
    pytest.param(2, 1, 1, 2, 5, 1, 18, 5, 23, id="one-row-23-columns"),
    pytest.param(1, 2, 4, 2, 2, 5, 2, 3, 1, id="u4-one-column-window"),
    pytest.param(1, 9, 1, 2, 2, 2, 9, 3, 3, id="two-groups-of-heads"),
    pytest.param(1, 1, 1, 2, 2, 2, 34, 3, 67, id="window-in-two-steps"),
    pytest.param(1, 1, 1, 2, 130, 2, 2, 3, 3, id="channels-in-parts"),
    pytest.param(1, 4, 1, 16, 65, 9, 11, 5, 7, id="fused"),
]
LARGE = [
    pytest.param(2, 4, 1, 16, 64, 25, 42, 23, 23, id="res5"),
    pytest.param(1, 4, 1, 16, 128, 13, 21, 23, 23, id="res5-small"),
    pytest.param(1, 4, 1, 16, 64, 50, 84, 23, 23, id="res4"),
    pytest.param(1, 3, 4, 16, 30, 19, 37, 23, 23, id="odd-u4"),
    pytest.param(1, 8, 1, 16, 16, 32, 32, 63, 63, id="global"),
]
SHAPES = SMALL if INTERPRETED else SMALL + LARGE


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory():
    """What a kernel leaves out shows: torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def tensors(n, h, u, k, v, height, width, rh, rw, dtype=torch.float32) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n + 10 * h + 100 * u + 1000 * height + rh)
    shapes = (n, h, k, height, width), (n, u, v, height, width), (k, u, rh, rw)
    return tuple(
        torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_()
        for shape in shapes
    )


def results(inputs: tuple[Tensor, ...], backend: str, direction: Tensor | None = None) -> list:
    """The output and the gradients of (output * direction).sum()."""
    output = position_lambda(*inputs, backend=backend)
    if direction is None:
        generator = torch.Generator().manual_seed(7)
        direction = torch.randn(output.shape, generator=generator).to(output)
    gradients = torch.autograd.grad(output, inputs, direction.to(output))
    return [output.detach(), *gradients]


def check(inputs: tuple[Tensor, ...], tolerance: float) -> list[Tensor]:
    """Output and all gradients, with the sum as written in float64 as the truth."""
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
    generator = torch.Generator().manual_seed(7)
    n, h, _, height, width = inputs[0].shape
    direction = torch.randn((n, h, inputs[1].shape[2], height, width), generator=generator)
    direction = direction.to(inputs[0]).double()
    got = results(inputs, "triton", direction)
    expected = results(exact, "reference" if INTERPRETED else "conv", direction)
    for name, a, b in zip(("output", "query", "value", "embedding"), got, expected, strict=True):
        assert a.shape == b.shape, name
        error = ((a.double() - b).norm() / b.norm()).item()
        assert error <= tolerance, f"{name}: {error:.2g}"
    return got


@pytest.fixture
def workspace(monkeypatch):
    """Set the bound of the workspace, in bytes."""

    def bound(size: int) -> None:
        plan_for = triton_lambda.plan_for
        monkeypatch.setattr(
            triton_lambda,
            "plan_for",
            lambda *inputs: dataclasses.replace(plan_for(*inputs), workspace=size),
        )

    return bound


def test_kernels_are_not_defined_at_import() -> None:
    assert LIGHT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "h", "u", "k", "v", "height", "width", "rh", "rw"), SHAPES)
def test_equals_float64(dtype, n, h, u, k, v, height, width, rh, rw) -> None:
    inputs = tensors(n, h, u, k, v, height, width, rh, rw, dtype)
    assert triton_lambda.unsupported(*inputs) is None
    output, *_ = check(inputs, TOLERANCE[dtype])
    assert output.dtype == dtype and output.shape == (n, h, v, height, width)


@pytest.mark.parametrize(("size", "parts"), [(4600, 3), (1600, 9), (1, 15)])
def test_chunks(workspace, size: int, parts: int) -> None:
    inputs = tensors(3, 2, 1, 2, 3, 5, 6, 3, 3)
    row = 8 * 2 * 3 * 16 * 4  # eight shifts of one block, h, rh, width, bytes
    per_image = row * 5
    assert sum(1 for _ in triton_plan.chunks(3, 5, row, size * 4)) == parts
    assert per_image < 4 * 4600 < 2 * per_image
    workspace(size * 4)
    check(inputs, 1e-5)


def test_layout_in_memory_does_not_matter() -> None:
    inputs = tensors(2, 1, 2, 3, 2, 3, 5, 3, 3)
    expected = results(inputs, "triton")
    for order in ((0, 3, 4, 1, 2), (0, 1, 2, 4, 3), (4, 3, 2, 1, 0)):
        back = [order.index(axis) for axis in range(5)]
        moved = [t.detach().permute(order).contiguous().permute(back) for t in inputs[:2]]
        assert moved[0].stride() != inputs[0].stride()
        moved = (*(t.requires_grad_() for t in moved), inputs[2])
        for a, b in zip(results(moved, "triton"), expected, strict=True):
            assert torch.equal(a, b)


def test_a_slice_of_channels_and_an_expanded_gradient() -> None:
    joint = torch.randn(2, 4, 5, 3 + 6, device=DEVICE).permute(0, 3, 1, 2)  # q and v in one tensor
    query = joint[:, :3].unflatten(1, (1, 3)).requires_grad_()
    value = joint[:, 3:].unflatten(1, (1, 6)).requires_grad_()
    inputs = query, value, torch.randn(3, 1, 3, 3, device=DEVICE, requires_grad=True)
    one = torch.ones((), device=DEVICE).expand(2, 1, 6, 4, 5)
    expected = results(tuple(t.detach().double().requires_grad_() for t in inputs), "conv", one)
    for a, b in zip(results(inputs, "triton", one), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_output_is_channels_last() -> None:
    output = position_lambda(*tensors(2, 2, 1, 3, 4, 3, 5, 3, 3), backend="triton")
    assert output.flatten(1, 2).is_contiguous(memory_format=torch.channels_last)


def test_only_the_inputs_are_saved() -> None:
    inputs = tensors(1, 2, 1, 3, 4, 3, 5, 3, 3)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        position_lambda(*inputs, backend="triton")
    assert sorted(t.data_ptr() for t in saved) == sorted(t.data_ptr() for t in inputs)


def test_half_embedding_gradient_is_not_rounded_to_the_values_type() -> None:
    query, value, _ = tensors(1, 1, 1, 2, 3, 4, 9, 3, 3, torch.float16)
    embedding = torch.randn(2, 1, 3, 3, device=DEVICE).half().float().requires_grad_()
    got = check((query, value, embedding), 2e-3)
    assert [t.dtype for t in got] == [torch.float16] * 3 + [torch.float32]
    rounded = got[3].half().float()
    assert not torch.equal(got[3], rounded)


def test_sums_come_unrounded_and_their_gradient_too() -> None:
    inputs = tensors(1, 2, 1, 3, 4, 3, 5, 3, 3, torch.float16)
    sums = position_sums(*inputs, backend="triton")
    assert sums.dtype == torch.float32 and not torch.equal(sums, sums.half().float())
    direction = torch.randn_like(sums).half()
    gradients = torch.autograd.grad(sums, inputs, direction.float())
    output, *expected = results(inputs, "triton", direction)
    assert torch.equal(sums.half(), output)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_float16_does_not_overflow_on_the_way() -> None:
    ones = torch.ones(1, 1, 1, 9, 9, dtype=torch.float16, device=DEVICE)
    table = 8 * torch.ones(1, 1, 17, 17, dtype=torch.float16, device=DEVICE)
    # λ is 81 * 128 * 8 = 82944, beyond float16; the query brings it back to 81.
    output = position_lambda(ones * 2**-10, ones * 128, table, backend="triton")
    assert output[0, 0, 0, 4, 4].item() == 81


@pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter has no products in bfloat16")
def test_sums_of_bfloat16_are_taken_in_float32() -> None:
    ones = torch.ones(1, 1, 1, 23, 23, dtype=torch.bfloat16, device=DEVICE)
    output = position_lambda(ones, ones, ones[0], backend="triton")
    assert output[0, 0, 0, 11, 11].item() == 528  # 529 in the nearest bfloat16, not 256


def test_second_derivative_equals_conv() -> None:
    inputs = tensors(2, 2, 1, 2, 3, 3, 4, 3, 3)

    def second(backend: str) -> tuple[Tensor, ...]:
        output = position_lambda(*inputs, backend=backend)
        first = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first[:2]), inputs)

    for a, b in zip(second("triton"), second("conv"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


def test_compiles_into_one_graph() -> None:
    inputs = tensors(1, 2, 1, 2, 3, 3, 4, 3, 3)
    expected = results(inputs, "triton")
    call = torch.compile(
        lambda *args: position_lambda(*args, backend="triton"),
        fullgraph=True,
        backend="aot_eager" if INTERPRETED else "inductor",
    )
    output = call(*inputs)
    gradients = torch.autograd.grad(output, inputs, torch.ones_like(output))
    assert torch.equal(output, expected[0])
    eager = position_lambda(*inputs, backend="triton")
    for a, b in zip(
        gradients, torch.autograd.grad(eager, inputs, torch.ones_like(eager)), strict=True
    ):
        assert torch.equal(a, b)


def test_operators_keep_torchs_rules() -> None:
    inputs = tensors(1, 2, 1, 2, 3, 3, 4, 3, 3)
    torch.library.opcheck(torch.ops.lambda_det.triton_lambda.default, inputs)
    gradient = torch.randn(1, 3, 4, 2, 3, device=DEVICE)
    detached = [tensor.detach() for tensor in inputs]
    operator = torch.ops.lambda_det.triton_lambda_backward.default
    torch.library.opcheck(operator, (*detached, gradient))


def test_layer_under_autocast() -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(16, scope=5, query_depth=4, num_heads=2, backend="triton").to(DEVICE)
    x = torch.randn(2, 16, 5, 7, device=DEVICE)
    with torch.autocast(DEVICE, dtype=torch.float16):
        output = layer(x)
        output.float().square().sum().backward()
    conv = LambdaLayer(16, scope=5, query_depth=4, num_heads=2, backend="conv").to(DEVICE)
    conv.load_state_dict(layer.state_dict())
    expected = conv(x)
    expected.square().sum().backward()
    assert (output.float() - expected).norm() < 0.01 * expected.norm()
    got, wanted = layer.embedding.grad, conv.embedding.grad
    assert got.dtype == torch.float32
    assert (got - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.skipif(not INTERPRETED, reason="only the interpreter lacks bfloat16")
def test_bfloat16_under_the_interpreter_falls_back() -> None:
    inputs = tensors(1, 1, 1, 2, 2, 3, 3, 3, 3, torch.bfloat16)
    assert "bfloat16" in triton_lambda.unsupported(*inputs)
    expected = position_lambda(*inputs, backend="conv")
    assert torch.equal(position_lambda(*inputs, backend="triton"), expected)
