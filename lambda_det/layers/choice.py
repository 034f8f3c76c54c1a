"""Which back end ``"auto"`` takes: by operation counts, weighed as they were measured.

Nothing is timed at run time, so the choice, and with it the last bits of the result, is the same in
every run. ``"reference"`` is never taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lambda_det.layers.band_products import WIDEST_TILE
from lambda_det.layers.recording import is_fixed

# Milliseconds on one thread, fitted to 33 shapes on 1 and 2 threads of an AMD EPYC 9004 with
# PyTorch 2.14 (float32; k 8 to 32, h 1 to 16, windows 1 to 49 x 83, 4 x 4 to 100 x 168, batch 1 to
# 8): (inference, training). At r=23, k=16, h=4 the cheaper one was taken in all but two shapes, of
# under 3 ms.
_CONV_CALL = (0.33, 0.36)
_CONV_PRODUCTS = (17.9, 176.0)  # for 10^9
_CONV_LAMBDAS = (1.66, 28.2)  # for 10^6 numbers
_BAND_CALL = (0.45, 0.95)
_BAND_STEPS = (20.6, 66.0)  # for 10^3
_BAND_QUERIES = (37.9, 135.0)  # for 10^9 products, queries x embedding, with their moves
_BAND_VALUES = (27.5, 72.6)  # for 10^9 products with the values
_BAND_POSITIONS = (1.45, 4.19)  # for 10^6 numbers in and out
_SPEED_OF_ANOTHER_THREAD = 0.8  # for the band's products, which are small

_WIDEST_JIT_WINDOW = 48  # oneDNN computes wider ones otherwise, and does not leave out the padding


def choose_backend(query: Tensor, value: Tensor, embedding: Tensor, there: set[str]) -> str:
    """The back end to take.

    On a CPU, whichever of ``"conv"`` and ``"banded"`` is expected to be faster, as it stands with
    gradients: a training step costs the convolution far more. A graph that is compiled for any size
    gets ``"banded"`` there, whatever the sizes that come. On any other device ``"conv"``.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`, the embedding
            cropped to the image.
        there: names of the back ends that can run.
    """
    # On a GPU the convolution, too: "triton" is tested with Triton's interpreter, but has not been
    # timed (tools/benchmark.py layers --device cuda), so it is taken on request only.
    if query.is_cuda or "banded" not in there:
        return "conv"
    if not all(is_fixed(query.shape[axis]) for axis in (0, 3, 4)):
        return "banded"
    tensors = (query, value, embedding)
    training = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    conv, banded = expected_ms(
        tuple(query.shape), value.shape[1:3], embedding.shape[2:], training, _threads()
    )
    return "banded" if banded < conv else "conv"


def expected_ms(
    query: tuple[int, ...],
    value: tuple[int, int],
    window: tuple[int, int],
    training: bool,
    threads: int,
) -> tuple[float, float]:
    """Milliseconds that ``"conv"`` and ``"banded"`` are expected to take on a CPU.

    Args:
        query: (N, h, k, H, W).
        value: (u, v).
        window: (rh, rw) of the embedding, cropped to the image.
        training: with the backward pass.
        threads: of PyTorch.
    """
    batch, heads, depth, height, width = query
    sets, channels = value
    rows, columns = window
    positions = batch * height * width
    # Of the window, on average over the positions, what is inside the image.
    inside_rows = rows - (rows // 2) * (rows // 2 + 1) / height
    inside_columns = columns - (columns // 2) * (columns // 2 + 1) / width

    taps = inside_rows * inside_columns
    if columns > _WIDEST_JIT_WINDOW:
        taps = 2 * rows * columns
    lanes = -(-depth // 16) * 16
    conv = (
        _CONV_CALL[training]
        + (
            _CONV_PRODUCTS[training] * positions * lanes * channels * sets * taps / 1e9
            + _CONV_LAMBDAS[training] * positions * depth * channels / 1e6
        )
        / threads
    )

    tiles = -(-width // WIDEST_TILE)
    tile = width / tiles
    beside = (tile - 1) * inside_columns / columns
    band_columns = max(columns, inside_columns + beside)
    band = positions * heads * sets * inside_rows
    moved = heads * channels + sets * channels * band_columns / tile
    banded = (
        _BAND_CALL[training]
        + _BAND_STEPS[training] * height * min(3, tiles) * sets / 1e3
        + (
            _BAND_QUERIES[training] * band * columns * (depth + 8) / 1e9
            + _BAND_VALUES[training] * band * band_columns * channels / 1e9
            + _BAND_POSITIONS[training] * positions * moved / 1e6
        )
        / (1 + _SPEED_OF_ANOTHER_THREAD * (threads - 1))
    )
    return conv, banded


def _constant(function):
    """For ``torch.compile``, which cannot look into ``function``: its result does not change."""
    mark = getattr(torch.compiler, "assume_constant_result", None)
    return mark(function) if mark else function


@_constant
def _threads() -> int:
    return torch.get_num_threads()
