"""position_lambda against the sum as the paper writes it, in float64."""

from __future__ import annotations

import pytest
import torch
from layer_helpers import NATIVE
from loop_reference import position_loop
from torch import Tensor

from lambda_det.errors import InputError
from lambda_det.layers import position_lambda
from lambda_det.layers.position_lambda import BACKEND_NAMES

BACKENDS = ("reference", "conv", "banded", "auto", NATIVE)

# N, h, u, k, v, H, W, rh, rw
SHAPES = [
    pytest.param(2, 2, 1, 3, 2, 4, 6, 3, 3, id="even-sizes"),
    pytest.param(1, 4, 1, 2, 3, 5, 3, 3, 3, id="odd-sizes-HgtW"),
    pytest.param(2, 1, 3, 2, 2, 3, 7, 5, 5, id="intra-depth-3"),
    pytest.param(1, 3, 1, 1, 1, 5, 4, 1, 1, id="one-number-window"),
    pytest.param(2, 2, 3, 2, 2, 1, 1, 3, 3, id="1x1-image"),
    pytest.param(1, 2, 1, 3, 2, 2, 3, 23, 23, id="image-within-scope"),
    pytest.param(1, 2, 1, 2, 2, 1, 8, 7, 7, id="one-row"),
    pytest.param(1, 1, 2, 2, 1, 9, 9, 5, 5, id="image-beyond-scope"),
    pytest.param(1, 2, 1, 2, 3, 4, 5, 3, 7, id="wide-window"),
    pytest.param(1, 2, 2, 2, 1, 5, 4, 9, 7, id="global-table"),
    pytest.param(2, 1, 1, 2, 2, 2, 3, 9, 1, id="tall-window"),
]


def tensors(n, h, u, k, v, height, width, rh, rw, dtype=torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n + 10 * h + 100 * u + 1000 * height + rh)
    shapes = (n, h, k, height, width), (n, u, v, height, width), (k, u, rh, rw)
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "h", "u", "k", "v", "height", "width", "rh", "rw"), SHAPES)
def test_equals_the_loop(backend, n, h, u, k, v, height, width, rh, rw) -> None:
    query, value, embedding = tensors(n, h, u, k, v, height, width, rh, rw)
    output = position_lambda(query, value, embedding, backend=backend)
    assert output.shape == (n, h, v, height, width)
    assert output.dtype == torch.float64
    expected = position_loop(query, value, embedding)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_in_memory_does_not_matter(backend: str) -> None:
    query, value, embedding = tensors(2, 2, 2, 3, 2, 4, 5, 3, 3)
    expected = position_loop(query, value, embedding)
    transposed = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (query, value)]
    assert not transposed[0].is_contiguous()
    output = position_lambda(*transposed, embedding, backend=backend)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("u", "size", "window"), [(1, (3, 4), (3, 3)), (3, (2, 3), (5, 3))])
def test_gradients(backend: str, u: int, size: tuple[int, int], window: tuple[int, int]) -> None:
    inputs = tensors(2, 2, u, 2, 2, *size, *window)
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *args: position_lambda(*args, backend=backend), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("row", "column", "expected"),
    [
        (1, 1, [[1, 2, 3], [4, 5, 6]]),  # offset (0, 0)
        (1, 2, [[2, 3, 0], [5, 6, 0]]),  # offset (0, +1): the neighbour to the right
        (1, 0, [[0, 1, 2], [0, 4, 5]]),  # offset (0, -1)
        (2, 1, [[4, 5, 6], [0, 0, 0]]),  # offset (+1, 0): the neighbour below
        (0, 1, [[0, 0, 0], [1, 2, 3]]),  # offset (-1, 0)
        (2, 0, [[0, 4, 5], [0, 0, 0]]),  # offset (+1, -1)
    ],
)
def test_one_offset_fetches_that_neighbour(backend, row, column, expected) -> None:
    image = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).view(1, 1, 1, 2, 3)
    embedding = torch.zeros(1, 1, 3, 3)
    embedding[0, 0, row, column] = 1
    output = position_lambda(torch.ones_like(image), image, embedding, backend=backend)
    assert output.view(2, 3).tolist() == expected


@pytest.mark.parametrize("backend", ["conv3d", "", "Reference", None, 3])
def test_unknown_backend(backend) -> None:
    with pytest.raises(InputError) as error:
        position_lambda(*tensors(1, 1, 1, 1, 1, 2, 2, 1, 1), backend=backend)
    message = str(error.value)
    assert "\n" not in message and repr(backend) in message
    assert all(repr(name) in message for name in BACKEND_NAMES)


@pytest.mark.parametrize(
    ("query", "value", "embedding"),
    [
        pytest.param((1, 2, 3, 5), (1, 1, 2, 4, 5), (3, 1, 3, 3), id="query-4d"),
        pytest.param((1, 2, 3, 4, 5), (1, 2, 4, 5), (3, 1, 3, 3), id="value-4d"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 3, 3), id="embedding-3d"),
        pytest.param((2, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 1, 3, 3), id="batch-differs"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 3, 5), (3, 1, 3, 3), id="height-differs"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 4, 1), (3, 1, 3, 3), id="width-differs"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (2, 1, 3, 3), id="k-differs"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 2, 3, 3), id="u-differs"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 1, 4, 3), id="even-rows"),
        pytest.param((1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 1, 3, 2), id="even-columns"),
    ],
)
def test_wrong_shapes(query, value, embedding) -> None:
    with pytest.raises(InputError) as error:
        position_lambda(torch.zeros(query), torch.zeros(value), torch.zeros(embedding))
    assert "\n" not in str(error.value)
