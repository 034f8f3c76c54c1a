"""LambdaLayer as a whole against explicit loops in float64, and its symmetries."""

from __future__ import annotations

import pytest
import torch
from layer_helpers import assert_equals_loop, image, make_layer
from loop_reference import layer_loop
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from lambda_det.layers import LambdaLayer

NORMS = {
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": nn.GroupNorm,
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_heads": 1},
        {"num_heads": 8, "query_depth": 1},
        {"num_heads": 2, "intra_depth": 3},
        {"num_heads": 2, "intra_depth": 2, "scope": 5, "query_depth": 4},
        {"scope": 1},
        {"scope": 23},
    ],
    ids=str,
)
def test_equals_the_loop(arguments: dict, training: bool) -> None:
    assert_equals_loop(make_layer(**arguments).train(training), image(2, 8, 3, 4))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (5, 3), (2, 6)], ids=str)
def test_any_size(size: tuple[int, int]) -> None:
    assert_equals_loop(make_layer(scope=5).eval(), image(1, 8, *size))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN", "GN", ""])
def test_norms_equal_the_loop(norm: str, training: bool) -> None:
    layer = make_layer(norm=norm, intra_depth=2).train(training)
    assert_equals_loop(layer, image(2, 8, 3, 4))


def test_more_output_than_input_channels() -> None:
    layer = make_layer(4, 12, num_heads=2)
    x = image(1, 4, 3, 4)
    assert layer(x).shape == (1, 12, 3, 4)
    assert_equals_loop(layer, x)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_norm_reaches_queries_and_values(norm: str) -> None:
    layer = LambdaLayer(32, norm=norm, query_depth=4, num_heads=4, intra_depth=3)
    assert isinstance(layer.query_norm, NORMS[norm])
    assert isinstance(layer.value_norm, NORMS[norm])
    assert layer.query_norm.weight.numel() == 16  # h * k
    assert layer.value_norm.weight.numel() == 24  # u * v


@pytest.mark.parametrize(
    ("channels", "heads", "query_groups", "value_groups"),
    [(128, 4, 32, 32), (64, 4, 32, 16), (48, 4, 32, 4), (20, 4, 32, 1)],
)
def test_group_norm_takes_gcd_groups(channels, heads, query_groups, value_groups) -> None:
    layer = LambdaLayer(channels, norm="GN", num_heads=heads)
    assert layer.query_norm.num_groups == query_groups
    assert layer.value_norm.num_groups == value_groups


def test_norm_by_callable() -> None:
    asked = []

    def norm(channels: int) -> nn.Module:
        asked.append(channels)
        return nn.InstanceNorm2d(channels)

    layer = LambdaLayer(8, norm=norm, query_depth=4, num_heads=2, intra_depth=3)
    assert isinstance(layer.query_norm, nn.InstanceNorm2d)
    assert isinstance(layer.value_norm, nn.InstanceNorm2d)
    assert sorted(asked) == [8, 12]  # h * k = 8, u * v = 12


def assert_gradients(module: nn.Module, *inputs: torch.Tensor) -> None:
    """Of the input and of every parameter, against finite differences in float64; and that a
    gradient which never comes (None) goes through."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    x, *others = inputs

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, named, (x, *others))

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *parameters))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        {"backend": "conv"},
        {"backend": "banded", "intra_depth": 2},
        {"scope": "global", "max_size": (4, 5)},
        {"content": False},
        {"position": False},
        {"key_normalizer": "l2", "query_normalizer": "softmax", "position_bias": True},
        {"norm": "GN", "intra_depth": 2},
        {"norm": "FrozenBN"},
        {"norm": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_gradients_of_a_batch(arguments: dict, batch: int, padded: bool) -> None:
    layer = make_layer(4, num_heads=2, query_depth=2, **arguments).train()
    mask = torch.zeros(batch, 3, 5, dtype=torch.bool)
    mask[0, 2:], mask[0, :, 4:] = True, True
    assert_gradients(layer, image(batch, 4, 3, 5), *([mask] if padded else []))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shape", [(1, 4, 2, 3), (2, 4, 1, 3), (1, 4, 3, 1), (2, 4, 2, 2)], ids=str)
@pytest.mark.parametrize("arguments", [{}, {"intra_depth": 2, "backend": "reference"}], ids=str)
def test_gradients_through_batch_norm(arguments: dict, shape: tuple, training: bool) -> None:
    # PyTorch's BatchNorm on a CPU reads a gradient in the wrong order when N, H or W is 1 and the
    # gradient's strides pass for channels-last, as those of an einsum do.
    layer = make_layer(4, num_heads=2, query_depth=2, **arguments).train(training)
    assert_gradients(layer, image(*shape))


def test_the_loop_itself_on_a_case_done_by_hand() -> None:
    # Two positions, one channel each of q, k and v: 1x1 weights of 1, no norm, no heads.
    layer = LambdaLayer(1, num_heads=1, query_depth=1, scope=3, norm="").double()
    with torch.no_grad():
        for conv in (layer.query, layer.key, layer.value):
            conv.weight.fill_(1)
        layer.embedding.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    x = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    weight = torch.e / (1 + torch.e)  # of the second position, whose value is 1
    # Position 1 sees itself through the middle entry, 4; position 0 has a query of 0.
    expected = torch.tensor([0.0, weight + 4], dtype=torch.float64).view(1, 1, 1, 2)
    torch.testing.assert_close(layer_loop(layer, x), expected)
    torch.testing.assert_close(layer(x), expected)
