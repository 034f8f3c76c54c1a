"""Forward-mode differentiation, whose tangents the package's own operators would drop."""

from __future__ import annotations

import pytest
import torch
from autotune_helpers import chosen, inputs
from torch import Tensor
from torch.autograd import forward_ad

from lambda_det.layers import LambdaLayer, position_lambda

NAMES = ("query", "value", "embedding")

# PyTorch loads its formulas of forward mode by torch.jit.script, which newer releases advise
# against.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script")


def slope(backend: str, of: int, tensors: list[Tensor], direction: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        duals = list(tensors)
        duals[of] = forward_ad.make_dual(tensors[of], direction)
        return forward_ad.unpack_dual(position_lambda(*duals, backend=backend)).tangent


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("of", range(3), ids=NAMES)
def test_every_back_end_keeps_the_tangents(clock, of, gradient) -> None:
    tensors = [tensor.detach().requires_grad_(gradient) for tensor in inputs()]
    position_lambda(*tensors)
    assert chosen() == ["banded"]  # which "auto" would take
    direction = torch.randn(tensors[of].shape, generator=torch.Generator().manual_seed(1))
    turned = [t.detach() for t in tensors]
    turned[of] = direction  # the sum is linear in each tensor
    expected = position_lambda(*turned, backend="reference")
    for backend in ("conv", "banded", "triton", "auto"):
        found = slope(backend, of, tensors, direction)
        assert found is not None
        torch.testing.assert_close(found, expected)
    assert chosen() == ["banded"]


def test_a_layer_keeps_the_tangents(clock) -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(8, query_depth=4, num_heads=2, scope=3).eval()
    x, direction = torch.randn(2, 1, 8, 6, 6)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        found = forward_ad.unpack_dual(layer(dual)).tangent
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = forward_ad.unpack_dual(layer(dual)).tangent
    x.requires_grad_()
    weights = torch.randn_like(found)
    (gradient,) = torch.autograd.grad(layer(x), x, weights)
    torch.testing.assert_close((found * weights).sum(), (gradient * direction).sum())
    assert rough.dtype == torch.bfloat16 and (rough - found).norm() < 0.03 * found.norm()
