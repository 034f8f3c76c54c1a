"""What holds for every lambda layer, whatever its options and its image."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from lambda_det.layers import LambdaLayer

FEW = settings(max_examples=15, deadline=None, derandomize=True, database=None)


@st.composite
def layers(draw, *, content=None, norm=("", "BN", "GN")) -> LambdaLayer:
    heads = draw(st.sampled_from((1, 2, 4)))
    torch.manual_seed(draw(st.integers(0, 1000)))
    has_content = draw(st.booleans()) if content is None else content
    return LambdaLayer(
        draw(st.integers(1, 9)),
        heads * draw(st.integers(1, 5)),
        query_depth=draw(st.integers(1, 6)),
        num_heads=heads,
        intra_depth=draw(st.integers(1, 3)),
        scope=draw(st.sampled_from((1, 3, 5, 9))),
        norm=draw(st.sampled_from(norm)),
        key_normalizer=draw(st.sampled_from(("softmax", "l2", None))),
        content=has_content,
        position=True if not has_content else draw(st.booleans()),
    ).eval()


@st.composite
def images(draw, layer: LambdaLayer, dtype=torch.float64) -> torch.Tensor:
    shape = (draw(st.integers(1, 3)), layer.query.in_channels, draw(st.integers(1, 11)))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return torch.randn(*shape, draw(st.integers(1, 11)), dtype=dtype)


@FEW
@given(st.data())
def test_shape_and_type(data) -> None:
    layer = data.draw(layers())
    dtype = data.draw(st.sampled_from((torch.float32, torch.float64)))
    image = data.draw(images(layer, dtype))
    output = layer.to(dtype)(image)
    channels = layer.out_channels
    assert output.shape == (image.shape[0], channels, *image.shape[2:])
    assert output.dtype == dtype and output.isfinite().all()


@FEW
@given(st.data())
def test_an_image_does_not_see_its_batch(data) -> None:
    layer = data.draw(layers()).double()
    image = data.draw(images(layer))
    together = layer(torch.cat([image, 7 * image.flip(0), torch.zeros_like(image)]))
    torch.testing.assert_close(together[: len(image)], layer(image), rtol=1e-10, atol=1e-10)


@FEW
@given(st.data())
def test_positions_move_with_the_image(data) -> None:
    """Away from the border: what is moved by (dy, dx) comes out moved, and else the same."""
    layer = data.draw(layers(content=False, norm=("", "BN"))).double()
    radius = layer.scope // 2
    dy, dx = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    side = 2 * radius + 6
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    image = torch.randn(1, layer.query.in_channels, side, side, dtype=torch.float64)
    moved = torch.zeros_like(image)
    moved[:, :, dy:, dx:] = image[:, :, : side - dy, : side - dx]
    inner = slice(radius, side - radius - 3)
    before = layer(image)[:, :, inner, inner]
    far = [slice(inner.start + d, inner.stop + d) for d in (dy, dx)]
    torch.testing.assert_close(layer(moved)[:, :, far[0], far[1]], before, rtol=1e-9, atol=1e-9)


@FEW
@given(st.data())
def test_content_does_not_see_the_order_of_the_pixels(data) -> None:
    layer = data.draw(layers(content=True)).double()
    layer.position = False
    image = data.draw(images(layer))
    order = torch.randperm(image[0, 0].numel())
    shuffled = image.flatten(2)[:, :, order].reshape(image.shape)
    expected = layer(image).flatten(2)[:, :, order].reshape(image.shape[0], -1, *image.shape[2:])
    torch.testing.assert_close(layer(shuffled), expected, rtol=1e-9, atol=1e-9)
