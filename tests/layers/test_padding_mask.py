"""padding_mask of LambdaLayer: what is not part of the image changes nothing in it."""

from __future__ import annotations

import pytest
import torch
from layer_helpers import assert_equals_loop, corner_mask, image, make_layer

from lambda_det.errors import InputError

SIZE = (4, 5)
MASK = ([3, 4], [5, 2], SIZE)  # two images of 3x5 and 4x2, padded to 4x5

OPTIONS = [
    {},
    {"key_normalizer": "l2"},
    {"key_normalizer": None},
    {"query_normalizer": "softmax"},
    {"key_normalizer": "l2", "query_normalizer": "softmax", "intra_depth": 2},
    {"content": False},
    {"position": False, "intra_depth": 2},
    {"scope": 9, "intra_depth": 2},
    {"scope": "global", "max_size": (4, 6)},
    {"scope": "global", "max_size": (7, 5), "content": False, "intra_depth": 2},
    {"position_bias": True},
    {"norm": ""},
    {"norm": "GN"},
    {"backend": "reference", "query_depth": 8},
]


def inside(mask: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (~mask)[:, None].expand_as(x)


@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_mask_equals_the_loop(arguments: dict) -> None:
    layer, x = make_layer(**arguments), image(2, 8, *SIZE)
    assert_equals_loop(layer, x, corner_mask(*MASK))
    scattered = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(3)) < 0.4
    assert_equals_loop(layer, x, scattered)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_padding_content_changes_nothing(arguments: dict, training: bool) -> None:
    layer, mask = make_layer(**arguments).train(training), corner_mask(*MASK)
    x = image(2, 8, *SIZE)
    other = torch.where(mask[:, None], 1e6 * image(2, 8, *SIZE, seed=2), x)
    valid = inside(mask, x)
    assert torch.equal(layer(x, mask)[valid], layer(other, mask)[valid])
    assert not torch.equal(layer(x)[valid], layer(other)[valid])


def test_not_a_number_in_the_padding_stays_out() -> None:
    for norm in ("BN", "GN"):
        layer, mask = make_layer(norm=norm), corner_mask([2], [3], SIZE)
        x = image(1, 8, *SIZE)
        broken = torch.where(mask[:, None], torch.nan, x)
        assert torch.equal(layer(x, mask), layer(broken, mask))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"scope": 9, "intra_depth": 2}, {"scope": "global", "max_size": SIZE}],
    ids=str,
)
def test_masked_image_equals_the_image_alone(arguments: dict) -> None:
    layer = make_layer(**arguments)
    x = image(2, 8, *SIZE)
    output = layer(x, corner_mask(*MASK))
    for n, (height, width) in enumerate([(3, 5), (4, 2)]):
        alone = layer(x[n : n + 1, :, :height, :width])
        torch.testing.assert_close(output[n : n + 1, :, :height, :width], alone)


@pytest.mark.parametrize("key_normalizer", ["softmax", "l2", None])
def test_image_that_is_padding_altogether_is_finite(key_normalizer: str | None) -> None:
    layer = make_layer(key_normalizer=key_normalizer)
    x = image(2, 8, 3, 4).requires_grad_()
    output = layer(x, corner_mask([0, 3], [0, 4], (3, 4)))
    assert output.isfinite().all()
    output.sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_input_is_left_as_it_is() -> None:
    layer, x = make_layer(), image(2, 8, *SIZE)
    before = x.clone()
    layer(x, corner_mask(*MASK))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 3), torch.bool), ((1, 3, 4), torch.bool), ((2, 4, 3), torch.bool),
     ((2, 3, 4), torch.uint8)],
    ids=str,
)  # fmt: skip
def test_mask_that_does_not_fit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"padding_mask of torch\.\w+ .*torch\.bool") as error:
        make_layer()(image(2, 8, 3, 4), torch.zeros(shape, dtype=dtype))
    assert "\n" not in str(error.value)
