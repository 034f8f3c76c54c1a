"""Options of LambdaLayer: normalisers, depths, parts, global scope, shared tables, bias."""

from __future__ import annotations

import copy

import pytest
import torch
from layer_helpers import assert_equals_loop, image, make_layer
from loop_reference import layer_loop
from torch import nn

from lambda_det.errors import InputError


@pytest.mark.parametrize("parts", [{}, {"content": False}, {"position": False}], ids=str)
@pytest.mark.parametrize("query_normalizer", ["softmax", None])
@pytest.mark.parametrize("key_normalizer", ["softmax", "l2", None])
def test_normalisers(key_normalizer: str | None, query_normalizer: str | None, parts: dict) -> None:
    normalizers = {"key_normalizer": key_normalizer, "query_normalizer": query_normalizer}
    assert_equals_loop(make_layer(intra_depth=2, **normalizers, **parts), image(2, 8, 3, 4))


def test_unused_parts_have_no_parameters() -> None:
    # A parameter that never gets a gradient stops distributed training.
    names = {name.split(".")[0] for name, _ in make_layer(content=False).named_parameters()}
    assert names == {"query", "value", "query_norm", "value_norm", "embedding"}
    names = {name.split(".")[0] for name, _ in make_layer(position=False).named_parameters()}
    assert names == {"query", "key", "value", "query_norm", "value_norm"}


@pytest.mark.parametrize("backend", ["conv", "reference"])
@pytest.mark.parametrize("size", [(4, 5), (3, 5), (4, 2), (2, 2), (1, 1), (4, 1)], ids=str)
def test_global_scope(size: tuple[int, int], backend: str) -> None:
    layer = make_layer(scope="global", max_size=(4, 5), intra_depth=2, backend=backend)
    assert layer.embedding.shape == (3, 2, 7, 9)
    assert_equals_loop(layer, image(2, 8, *size))


@pytest.mark.parametrize("size", [(5, 5), (4, 6), (9, 9), (5, 1)], ids=str)
def test_global_scope_on_a_larger_image(size: tuple[int, int]) -> None:
    layer = make_layer(scope="global", max_size=(4, 5))
    with pytest.raises(InputError, match=rf"{size[0]}x{size[1]}.*max_size=\(4, 5\)") as error:
        layer(image(1, 8, *size))
    assert "\n" not in str(error.value)


def test_shared_embedding() -> None:
    table = nn.Parameter(torch.randn(3, 1, 5, 5, dtype=torch.float64))
    layers = [make_layer(scope=5, shared_embedding=table) for _ in range(2)]
    assert layers[0].embedding is table and layers[1].embedding is table
    x = image(1, 8, 3, 4)
    expected = layer_loop(layers[0], x)
    torch.testing.assert_close(layers[0](x), expected, rtol=1e-11, atol=1e-11)
    both = nn.ModuleList(layers)
    assert sum(parameter is table for parameter in both.parameters()) == 1
    twin = copy.deepcopy(both)
    assert twin[0].embedding is twin[1].embedding and twin[0].embedding is not table
    (layers[0](x).sum() + layers[1](2 * x).sum()).backward()
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(3, 1, 3, 3), (2, 1, 5, 5), (3, 2, 5, 5), (3, 5, 5)], ids=str)
def test_shared_embedding_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="shared_embedding") as error:
        make_layer(scope=5, shared_embedding=nn.Parameter(torch.zeros(shape)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{}, {"query_normalizer": "softmax"}], ids=str)
def test_position_bias(arguments: dict) -> None:
    plain, biased = make_layer(**arguments), make_layer(position_bias=True, **arguments)
    extra = set(biased.state_dict()) - set(plain.state_dict())
    assert [biased.state_dict()[name].shape for name in extra] == [(3,)]
    biased.load_state_dict(plain.state_dict(), strict=False)
    x = image(1, 8, 3, 4)
    with torch.no_grad():
        biased.state_dict()[extra.pop()].copy_(torch.tensor([1.0, -2.0, 0.5]))
    expected = layer_loop(biased, x)
    torch.testing.assert_close(biased(x), expected, rtol=1e-11, atol=1e-11)
    # It adds the same to every value channel: a bias on the (k, v) lambda, one number for each k.
    added = (biased(x) - plain(x)).view(4, 2, 3, 4)
    torch.testing.assert_close(added[:, 0], added[:, 1])
    assert added.abs().max() > 0.1


def test_no_position_bias_without_positions() -> None:
    layer = make_layer(position=False, position_bias=True)
    assert set(layer.state_dict()) == set(make_layer(position=False).state_dict())
