"""Tile sizes and chunks of the Triton back end, from the shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

WORKSPACE_BYTES = 256 * 2**20
"""Bound of the weights that are in memory at one time (one row of one image at the least)."""

SHARED_BYTES = 96 * 2**10
"""Shared memory that one program may use; every GPU with tensor cores for bfloat16 has it."""


@dataclass(frozen=True)
class Tile:
    """One program of a kernel: rows of the image x one block of columns, channels of the values."""

    rows: int
    channels: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Plan:
    """How the work is cut. Sizes of blocks are powers of two.

    Attributes:
        shifts: queries of one row that share a block, and with it a window.
        width: columns of that window, at least shifts + scope - 1.
        step: columns of the window in one product.
        group: heads in one tile.
        span: blocks of queries in one product of the values' gradient.
        output, weights, values: tiles of the output and of the two gradients.
        workspace: bound of the weights in bytes.
    """

    shifts: int
    width: int
    step: int
    group: int
    span: int
    output: Tile
    weights: Tile
    values: Tile
    workspace: int = WORKSPACE_BYTES


@dataclass(frozen=True)
class Chunk:
    """Images first_image ... first_image + images - 1, of each the rows from first_row on."""

    first_image: int
    images: int
    first_row: int
    rows: int


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below ``number``."""
    return 1 << max(0, number - 1).bit_length()


def make_plan(*, heads: int, height: int, channels: int, columns: int, dtype: torch.dtype) -> Plan:
    """The plan for values of ``channels`` per head and a window of ``columns`` columns."""
    shifts, width = min(
        ((shifts, _width(shifts + columns - 1)) for shifts in (8, 16, 32)),
        # Memory goes with the width; fewer queries to a window load the values more often.
        key=lambda pair: pair[1] * (1 + 4 / pair[0]),
    )
    size = dtype.itemsize
    step = min(width, 64)
    group = min(power_of_two(heads), 8)
    span = max(1, min(step // shifts, (256 // size) // (shifts * group)))
    queries = 512 // (2 * size)
    block = max(16, min(power_of_two(channels), 128 if size == 2 else 64))
    tallest = max(power_of_two(height), 2)  # 2: a product has at least 16 rows
    rows = max(1, min(queries // (shifts * group), tallest))
    key_rows = max(1, min(queries // (2 * shifts), tallest))
    tile = _tile(rows, rows * shifts * group, step, block, size)
    return Plan(
        shifts=shifts,
        width=width,
        step=step,
        group=group,
        span=span,
        output=tile,
        weights=tile,
        values=_tile(key_rows, key_rows * shifts, span * shifts * group, block, size),
    )


def _width(columns: int) -> int:
    return max(16, power_of_two(columns)) if columns <= 64 else -(-columns // 64) * 64


def _tile(rows: int, lanes: int, depth: int, channels: int, size: int) -> Tile:
    operands = (lanes + channels) * depth * size
    return Tile(
        rows=rows,
        channels=channels,
        warps=8 if lanes * channels >= 128 * 128 else 4,
        stages=max(1, min(3, SHARED_BYTES // operands)),
    )


def chunks(images: int, height: int, row_bytes: int, workspace: int) -> Iterator[Chunk]:
    """Whole images while one fits into the workspace, else rows of one image."""
    per_chunk = workspace // (row_bytes * height)
    if per_chunk:
        size = _even(images, per_chunk)
        for first in range(0, images, size):
            yield Chunk(first, min(size, images - first), 0, height)
        return
    size = _even(height, max(1, workspace // row_bytes))
    for image in range(images):
        for first in range(0, height, size):
            yield Chunk(image, 1, first, min(size, height - first))


def _even(total: int, most: int) -> int:
    """The size of equal parts of ``total``, each at most ``most``."""
    parts = -(-total // most)
    return -(-total // parts)
