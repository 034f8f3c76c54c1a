"""What surrounds the Triton kernels, on a GPU that is not there."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lambda_det.layers import triton_launch
from lambda_det.layers.triton_lambda import plan_for
from lambda_det.layers.triton_plan import make_plan


@pytest.mark.parametrize("new", [True, False])
def test_gradient_of_half_embeddings_with_and_without_float32_products(new, monkeypatch) -> None:
    """PyTorch before 2.8 has no ``out_dtype``: there the weights are copied to float32 in parts."""
    if new and not triton_launch.HALF_INTO_FLOAT32:
        pytest.skip("this PyTorch has no torch.bmm(out_dtype=)")
    monkeypatch.setattr(triton_launch, "HALF_INTO_FLOAT32", new)
    bmm, made = torch.bmm, []

    def recorded(a, b, **more):
        result = bmm(a, b, **more)
        made.append((a.dtype, a.shape[0], result.dtype, "out_dtype" in more))
        return result

    monkeypatch.setattr(torch, "bmm", recorded)
    half, plan = (
        torch.bfloat16,
        make_plan(heads=2, depth=4, sets=1, height=5, channels=6, columns=3, dtype=torch.bfloat16),
    )
    with FakeTensorMode():
        query = torch.empty(3, 2, 4, 5, 9, dtype=half, device="cuda")
        value = torch.empty(3, 1, 6, 5, 9, dtype=half, device="cuda")
        embedding = torch.empty(4, 1, 3, 3, device="cuda")
        gradient = torch.empty(3, 5, 9, 2, 6, dtype=half, device="cuda")
        found = triton_launch.backward(
            query, value, embedding, gradient, plan, lambda *_launch: None
        )
    assert [tensor.dtype for tensor in found] == [half, half, torch.float32]
    assert all(tensor.is_cuda for tensor in found)
    products = [call for call in made if call[2] == torch.float32]
    images, shifts = 3, plan.shifts
    if new:
        assert products == [(half, shifts * images, torch.float32, True)]
    else:
        assert products == [(torch.float32, images, torch.float32, False)] * shifts


def test_float32_products_in_parts_are_those_of_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 3, 40, generator=generator).half()
    b = torch.randn(6, 40, 5, generator=generator).half()
    got = triton_launch._float32_products(a, b, 2)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("old", [True, False])
def test_an_old_triton_gets_the_kernels_that_it_compiles(old: bool, monkeypatch) -> None:
    """Triton before 3.2, which has no ``tl.dot_scaled``, does not compile the fused kernel."""
    language = pytest.importorskip("triton.language", reason="Triton is not installed")
    from lambda_det.layers import triton_fused

    if old:
        monkeypatch.delattr(language, "dot_scaled", raising=False)
    spec = importlib.util.spec_from_file_location("loaded_again", triton_fused.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    monkeypatch.setattr(triton_fused, "COMPILES", again.COMPILES)

    query = torch.empty(1, 4, 16, 8, 8, dtype=torch.float16, device="meta")
    value = torch.empty(1, 1, 64, 8, 8, dtype=torch.float16, device="meta")
    embedding = torch.empty(16, 1, 23, 23, device="meta")
    launched = []
    triton_launch.forward(
        query, value, embedding, plan_for(query, value, embedding),
        lambda kernel, *_: launched.append(kernel.__name__),
    )  # fmt: skip
    assert launched == ["gather_values" if old else "fused_forward"]
