"""Options of LambdaLayer: normalisers, padding mask, global scope, shared tables, bias."""

from __future__ import annotations

import copy

import pytest
import torch
from loop_reference import layer_loop, randomise_norms
from torch import nn

from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer


def make_layer(**kwargs) -> LambdaLayer:
    torch.manual_seed(0)
    layer = LambdaLayer(8, **({"query_depth": 3, "scope": 3} | kwargs)).double()
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


@pytest.mark.parametrize(
    "arguments",
    [
        {"key_normalizer": "l2"},
        {"key_normalizer": None},
        {"query_normalizer": "softmax"},
        {"key_normalizer": "l2", "query_normalizer": "softmax", "intra_depth": 2},
        {"content": False},
        {"content": False, "query_normalizer": "softmax", "intra_depth": 2},
        {"position": False},
        {"position": False, "key_normalizer": None, "intra_depth": 2},
    ],
    ids=str,
)
def test_equals_the_loop(arguments: dict) -> None:
    layer, x = make_layer(**arguments), image(2, 8, 3, 4)
    torch.testing.assert_close(layer(x), layer_loop(layer, x), rtol=1e-11, atol=1e-11)


def test_unused_parts_have_no_parameters() -> None:
    # A parameter that never gets a gradient stops distributed training.
    names = {name.split(".")[0] for name, _ in make_layer(content=False).named_parameters()}
    assert names == {"query", "value", "query_norm", "value_norm", "embedding"}
    names = {name.split(".")[0] for name, _ in make_layer(position=False).named_parameters()}
    assert names == {"query", "key", "value", "query_norm", "value_norm"}


@pytest.mark.parametrize("key_normalizer", ["softmax", "l2", None])
@pytest.mark.parametrize("scope", [3, 9])
def test_padding_content_changes_nothing(key_normalizer: str | None, scope: int) -> None:
    layer = make_layer(key_normalizer=key_normalizer, scope=scope, intra_depth=2)
    mask = corner_mask([3, 4], [5, 2], (4, 5))
    x = image(2, 8, 4, 5)
    other = torch.where(mask[:, None], 1e6 * image(2, 8, 4, 5, seed=2), x)
    inside = (~mask)[:, None].expand_as(x)
    assert torch.equal(layer(x, mask)[inside], layer(other, mask)[inside])
    assert not torch.equal(layer(x)[inside], layer(other)[inside])


def test_not_a_number_in_the_padding_stays_there() -> None:
    layer, mask, x = make_layer(), corner_mask([2], [3], (4, 5)), image(1, 8, 4, 5)
    broken = torch.where(mask[:, None], torch.nan, x)
    inside = (~mask)[:, None].expand_as(x)
    assert torch.equal(layer(x, mask)[inside], layer(broken, mask)[inside])


@pytest.mark.parametrize("arguments", [{}, {"scope": 9, "intra_depth": 2}], ids=str)
def test_masked_image_equals_the_image_alone(arguments: dict) -> None:
    layer = make_layer(**arguments)
    x = image(2, 8, 4, 5)
    output = layer(x, corner_mask([3, 4], [5, 2], (4, 5)))
    for n, (height, width) in enumerate([(3, 5), (4, 2)]):
        alone = layer(x[n : n + 1, :, :height, :width])
        torch.testing.assert_close(output[n : n + 1, :, :height, :width], alone)


def test_mask_equals_the_loop() -> None:
    layer, x = make_layer(intra_depth=2), image(2, 8, 3, 4)
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3)) < 0.4
    expected = layer_loop(layer, x, mask)
    torch.testing.assert_close(layer(x, mask), expected, rtol=1e-11, atol=1e-11)


def test_empty_mask_is_no_mask() -> None:
    layer, x = make_layer(), image(2, 8, 3, 4)
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    torch.testing.assert_close(layer(x, mask), layer(x), rtol=1e-12, atol=1e-12)


def test_image_that_is_padding_altogether_is_finite() -> None:
    layer = make_layer()
    x = image(2, 8, 3, 4).requires_grad_()
    output = layer(x, corner_mask([0, 3], [0, 4], (3, 4)))
    assert output.isfinite().all()
    output.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 4), (2, 4, 3), (2, 1, 3, 4)], ids=str)
def test_mask_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="padding_mask") as error:
        make_layer()(image(2, 8, 3, 4), torch.zeros(shape, dtype=torch.bool))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(4, 5), (3, 5), (2, 2), (1, 1), (4, 1)], ids=str)
def test_global_scope(size: tuple[int, int]) -> None:
    layer = make_layer(scope="global", max_size=(4, 5), intra_depth=2)
    assert layer.embedding.shape == (3, 2, 7, 9)
    x = image(1, 8, *size)
    torch.testing.assert_close(layer(x), layer_loop(layer, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [(5, 5), (4, 6), (9, 9)], ids=str)
def test_global_scope_on_a_larger_image(size: tuple[int, int]) -> None:
    layer = make_layer(scope="global", max_size=(4, 5))
    with pytest.raises(InputError, match="max_size") as error:
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
