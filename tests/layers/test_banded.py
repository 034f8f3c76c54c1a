"""The swapped order against the sum as written: values, gradients, and what is kept for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lambda_det.layers import banded as banded_module
from lambda_det.layers import position_lambda

# N, h, u, k, v, H, W, rh, rw
SHAPES = [
    pytest.param(2, 4, 1, 3, 2, 7, 9, 5, 5, id="one-tile"),
    pytest.param(2, 2, 1, 3, 2, 6, 31, 5, 5, id="edges-and-middle"),
    pytest.param(1, 1, 1, 2, 3, 5, 47, 3, 3, id="many-tiles"),
    pytest.param(1, 2, 4, 3, 2, 6, 29, 7, 7, id="intra-depth-4"),
    pytest.param(1, 4, 1, 2, 2, 5, 17, 23, 23, id="image-within-scope"),
    pytest.param(1, 2, 1, 2, 2, 26, 3, 23, 23, id="narrow"),
    pytest.param(1, 2, 1, 2, 2, 3, 27, 23, 23, id="low"),
    pytest.param(1, 2, 1, 2, 2, 9, 40, 23, 23, id="windows-end-beyond-the-image"),
    pytest.param(1, 2, 2, 2, 2, 6, 18, 11, 35, id="global-table"),
    pytest.param(1, 2, 1, 2, 2, 9, 30, 9, 1, id="one-column"),
    pytest.param(1, 2, 1, 2, 2, 9, 30, 1, 9, id="one-row"),
    pytest.param(3, 1, 1, 1, 1, 1, 1, 1, 1, id="one-position"),
    pytest.param(0, 2, 1, 2, 3, 4, 5, 3, 3, id="no-image"),
]


def tensors(n, h, u, k, v, height, width, rh, rw, dtype=torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + h + 10 * u + 100 * height + 1000 * width + rh)
    shapes = (n, h, k, height, width), (n, u, v, height, width), (k, u, rh, rw)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def with_gradients(inputs: list[Tensor], weight: Tensor, backend: str) -> list[Tensor]:
    """Output and the gradients of (output * weight).sum()."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    output = position_lambda(*inputs, backend=backend)
    return [output, *torch.autograd.grad(output, inputs, weight.to(output.dtype))]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.fixture(params=[None, 1000], ids=["", "small-chunks"])
def chunk_size(request, monkeypatch) -> None:
    if request.param:
        monkeypatch.setattr(banded_module, "BAND_BYTES", request.param)


@pytest.mark.parametrize(("n", "h", "u", "k", "v", "height", "width", "rh", "rw"), SHAPES)
def test_equals_the_sum_as_written(chunk_size, n, h, u, k, v, height, width, rh, rw) -> None:
    inputs = tensors(n, h, u, k, v, height, width, rh, rw)
    weight = torch.randn(n, h, v, height, width, dtype=torch.float64)
    expected = with_gradients(inputs, weight, "reference")
    for found, wanted in zip(with_gradients(inputs, weight, "banded"), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(
    "shape",
    [(1, 4, 1, 16, 8, 25, 42, 23, 23), (1, 2, 4, 4, 6, 5, 33, 23, 23)],
    ids=["res5", "intra-depth-4"],
)
def test_error_of_lower_precision(dtype, allowed, shape) -> None:
    inputs = tensors(*shape, dtype=dtype)
    n, h, _, _, v, height, width, _, _ = shape
    weight = torch.randn(n, h, v, height, width).to(dtype)
    exact = with_gradients([tensor.double() for tensor in inputs], weight, "conv")
    for found, wanted in zip(with_gradients(inputs, weight, "banded"), exact, strict=True):
        assert found.dtype == dtype
        assert relative_error(found, wanted) < allowed


@pytest.mark.parametrize("u", [1, 2])
def test_second_derivative(u: int) -> None:
    inputs = tensors(1, 2, u, 2, 2, 3, 4, 3, 3)
    for tensor in inputs:
        tensor.requires_grad_()
    banded = lambda *args: position_lambda(*args, backend="banded")  # noqa: E731
    assert torch.autograd.gradgradcheck(banded, inputs)


def test_second_derivative_where_only_the_values_train() -> None:
    query, value, embedding = tensors(1, 2, 1, 2, 2, 3, 4, 3, 3)
    value.requires_grad_()
    output = position_lambda(query, value, embedding, backend="banded")
    (gradient,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), value)
    expected = position_lambda(query, value, embedding, backend="reference")
    (gradient,) = torch.autograd.grad(expected.square().sum(), value, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(gradient.sum(), value)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_inputs_are_saved(dtype: torch.dtype) -> None:
    inputs = [t.requires_grad_() for t in tensors(2, 4, 1, 4, 3, 6, 20, 7, 7, dtype=dtype)]
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        position_lambda(*inputs, backend="banded")
    assert {t.untyped_storage().data_ptr() for t in saved} == {
        t.untyped_storage().data_ptr() for t in inputs
    }


def test_backward_under_autocast_is_as_exact() -> None:
    inputs = [t.requires_grad_() for t in tensors(1, 2, 1, 4, 3, 5, 16, 7, 7, dtype=torch.float32)]
    weight = torch.randn(1, 2, 3, 5, 16)
    expected = with_gradients([t.double() for t in inputs], weight, "reference")[1:]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_lambda(*inputs, backend="banded")
        found = torch.autograd.grad(output, inputs, weight)
    for gradient, wanted in zip(found, expected, strict=True):
        assert relative_error(gradient, wanted) < 1e-5


def test_meta_device() -> None:
    query, value, embedding = (t.to("meta") for t in tensors(2, 2, 1, 3, 4, 5, 16, 3, 3))
    value.requires_grad_()
    output = position_lambda(query, value, embedding, backend="banded")
    assert output.shape == (2, 2, 4, 5, 16)
    output.sum().backward()
    assert value.grad.shape == value.shape


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_operator_is_well_formed() -> None:
    inputs = [t.requires_grad_() for t in tensors(1, 2, 2, 3, 2, 4, 15, 5, 5)]
    torch.library.opcheck(torch.ops.lambda_det.position_lambda_banded.default, tuple(inputs))


def test_bands_are_no_larger_than_agreed(monkeypatch) -> None:
    sizes = []
    original = banded_module._Images.new_band

    def record(self) -> Tensor:
        band = original(self)
        sizes.append(band.nbytes)
        return band

    monkeypatch.setattr(banded_module._Images, "new_band", record)
    inputs = tensors(9, 4, 1, 2, 1, 12, 84, 23, 23, dtype=torch.float32)
    position_lambda(*inputs, backend="banded")
    # A row of an image needs 1.1 MB (84 x 4 queries, a window of 23 x 36): three at a time.
    assert len(sizes) == 3 and max(sizes) <= 4 * 2**20


def test_pytorchs_counter_knows_the_operations() -> None:
    inputs = [t.requires_grad_() for t in tensors(2, 4, 3, 5, 6, 7, 8, 3, 5)]
    with FlopCounterMode(display=False) as counter:
        output = position_lambda(*inputs, backend="banded")
        forward = counter.get_total_flops()
        output.sum().backward()
    offsets = 2 * 4 * 7 * 8 * 3 * (3 * 5)  # of all queries, in all value sets
    assert forward == 2 * offsets * (5 + 6)
    assert counter.get_total_flops() - forward == 2 * offsets * (3 * 5 + 2 * 6)
