"""The C++ kernels against the loops in float64, and how they behave as an operator of PyTorch."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loop_reference import position_loop
from torch import Tensor

from lambda_det.layers import LambdaLayer, native_build, native_lambda, position_lambda

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("native_kernels")]


def tensors(n, h, k, u, v, height, width, rh, rw, dtype=torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + 10 * h + 100 * height + 1000 * width)
    shapes = (n, h, k, height, width), (n, u, v, height, width), (k, u, rh, rw)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def with_gradients(inputs: list[Tensor], backend: str, weight: Tensor) -> list[Tensor]:
    """Output and the gradients of (output * weight).sum()."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = position_lambda(*inputs, backend=backend)
    return [output.detach(), *torch.autograd.grad(output, inputs, weight.to(output.dtype))]


def weight_for(query: Tensor, value: Tensor) -> Tensor:
    n, h, _, height, width = query.shape
    generator = torch.Generator().manual_seed(7)
    return torch.randn(n, h, value.shape[2], height, width, generator=generator)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture(params=[0, 1, 2], ids=["baseline", "avx2", "avx512"])
def level(request, monkeypatch) -> None:
    """The best instruction set that the kernels may use."""
    monkeypatch.setattr(native_lambda, "BEST_LEVEL", request.param)


small = st.integers(1, 5)
odd = st.integers(0, 4).map(lambda half: 2 * half + 1)


@pytest.mark.usefixtures("level")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 2), small, small, st.integers(1, 3), small, small, st.integers(1, 9), odd, odd
)
def test_equals_the_loop(n, h, k, u, v, height, width, rh, rw) -> None:
    inputs = tensors(n, h, k, u, v, height, width, rh, rw)
    output = position_lambda(*inputs, backend="native")
    torch.testing.assert_close(output.double(), position_loop(*inputs), rtol=1e-5, atol=1e-5)


# N, h, k, u, v, H, W, rh, rw
SHAPES = [
    pytest.param((2, 4, 16, 1, 64, 9, 26, 23, 23), id="res4"),
    pytest.param((1, 4, 16, 1, 128, 9, 20, 7, 23), id="res5"),
    pytest.param((1, 5, 3, 2, 83, 9, 30, 7, 9), id="odd-sizes"),
    pytest.param((1, 50, 2, 1, 3, 3, 4, 3, 3), id="more-heads-than-a-tile"),
    pytest.param((1, 1, 4, 1, 9, 20, 9, 23, 1), id="one-column"),
    pytest.param((1, 2, 2, 2, 6, 4, 40, 7, 79), id="global-table"),
    pytest.param((0, 2, 2, 1, 3, 4, 5, 3, 3), id="no-image"),
    pytest.param((1, 0, 2, 1, 3, 4, 5, 3, 3), id="no-head"),
]


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [(torch.float32, 1e-6), (torch.float64, 3e-14), (torch.bfloat16, 3e-3), (torch.float16, 4e-4)],
)
def test_gradients_of_every_type(shape, dtype, allowed) -> None:
    inputs = tensors(*shape, dtype=dtype)
    weight = weight_for(*inputs[:2]).to(dtype)
    expected = with_gradients([tensor.double() for tensor in inputs], "conv", weight)
    for found, wanted in zip(with_gradients(inputs, "native", weight), expected, strict=True):
        assert found.dtype == dtype
        assert not found.isnan().any()
        assert found.numel() == 0 or not wanted.any() or relative_error(found, wanted) < allowed


@pytest.mark.parametrize(
    "layout", [channels_last, lambda t: t.mT.contiguous().mT], ids=["last", "mT"]
)
def test_layout_changes_no_bit(layout) -> None:
    query, value, embedding = tensors(2, 4, 16, 1, 32, 7, 18, 9, 9)
    weight = weight_for(query, value)
    expected = with_gradients([query, value, embedding], "native", weight)
    inputs = [layout(query), layout(value), embedding]
    for gradient in (weight, layout(weight)):
        for found, wanted in zip(with_gradients(inputs, "native", gradient), expected, strict=True):
            assert torch.equal(found, wanted)


def test_a_channels_last_value_gives_a_channels_last_output() -> None:
    query, value, embedding = tensors(1, 2, 3, 1, 4, 5, 6, 3, 3)
    output = position_lambda(query, channels_last(value), embedding, backend="native")
    assert output.permute(0, 3, 4, 1, 2).is_contiguous()


def test_a_slice_of_a_larger_tensor() -> None:
    query, value, embedding = tensors(2, 8, 16, 3, 32, 7, 18, 9, 9)
    inputs = [channels_last(query)[:, 2:5], channels_last(value)[:, 1:], embedding[:, 1:]]
    weight = weight_for(*inputs[:2])
    expected = with_gradients([tensor.contiguous() for tensor in inputs], "native", weight)
    for found, wanted in zip(with_gradients(inputs, "native", weight), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_runs_agree_to_the_bit(threads: int) -> None:
    torch.set_num_threads(threads)  # tests/conftest.py sets it back
    inputs = tensors(2, 4, 16, 1, 64, 11, 30, 23, 23)
    weight = weight_for(*inputs[:2])
    first = with_gradients(inputs, "native", weight)
    for _ in range(5):
        for found, wanted in zip(with_gradients(inputs, "native", weight), first, strict=True):
            assert torch.equal(found, wanted)


def test_numbers_outside_of_a_window_do_not_matter() -> None:
    query, value, embedding = tensors(1, 2, 3, 1, 20, 5, 30, 3, 3)
    expected = position_lambda(query, value, embedding, backend="native")
    value[..., 20:] = float("inf")
    output = position_lambda(query, value, embedding, backend="native")
    assert torch.equal(output[..., :19], expected[..., :19])


def test_second_derivative() -> None:
    inputs = tensors(1, 2, 2, 2, 2, 3, 4, 3, 3, dtype=torch.float64)
    for tensor in inputs:
        tensor.requires_grad_()
    native = lambda *args: position_lambda(*args, backend="native")  # noqa: E731
    assert torch.autograd.gradcheck(native, inputs)
    assert torch.autograd.gradgradcheck(native, inputs)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("layout", [channels_last, Tensor.contiguous], ids=["last", "first"])
def test_operator_is_well_formed(layout) -> None:
    query, value, embedding = tensors(1, 2, 3, 2, 2, 4, 15, 5, 5)
    inputs = [layout(query), layout(value), embedding]
    for tensor in inputs:
        tensor.requires_grad_()
    torch.library.opcheck(torch.ops.lambda_det.position_lambda_native.default, tuple(inputs))


def test_under_autocast_the_sums_stay_in_float32() -> None:
    query, value, embedding = tensors(1, 4, 16, 1, 32, 5, 16, 7, 7)
    half = [query.bfloat16(), value.bfloat16(), embedding]
    expected = with_gradients([t.double() for t in half], "conv", weight_for(query, value))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(half, "native", weight_for(query, value).bfloat16())
    assert [t.dtype for t in found] == [torch.bfloat16] * 3 + [torch.float32]
    assert relative_error(found[0], expected[0]) < 2e-3
    assert all(relative_error(a, b) < 4e-3 for a, b in zip(found[1:], expected[1:], strict=True))


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_copied_and_exported_layer() -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(16, query_depth=4, scope=5, backend="native")
    x = torch.randn(2, 16, 9, 11)
    expected = layer(x)
    expected.sum().backward()
    copied = copy.deepcopy(layer)
    copied.zero_grad()
    compiled = torch.compile(copied, backend="aot_eager", fullgraph=True)
    output = compiled(x)
    output.sum().backward()
    torch.testing.assert_close(output, expected)
    for found, wanted in zip(copied.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-4)
    graph = str(torch.export.export(layer.eval(), (x,)).graph)
    assert "conv" in graph and "position_lambda_native" not in graph


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizers: str, tmp_path: Path) -> None:
    compiler = native_build.compiler_command()
    checked = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-O1", "-g"]
    empty, driver = tmp_path / "empty.cpp", Path(__file__).with_name("native_driver.cpp")
    empty.write_text("int main() {}")
    if subprocess.run([*compiler, *checked, empty, "-o", tmp_path / "empty"]).returncode:
        pytest.skip(f"{compiler[0]} has no -fsanitize={sanitizers}")
    objects = native_build.compile_kernels(compiler, tmp_path, [*native_build._FLAGS, *checked])
    own = [*checked, "-std=c++17", "-pthread", f"-I{native_build.SOURCES}", driver]
    subprocess.run([*compiler, *own, *objects, "-o", tmp_path / "driver"], check=True)
    run = subprocess.run([tmp_path / "driver"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert "baseline" in run.stdout
