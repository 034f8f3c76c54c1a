"""Chooses the tile sizes and chunks of the Triton back end from the shapes; nothing is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

WORKSPACE_BYTES = 256 * 2**20
"""Bytes of weights that are in memory at one time (but at least one row of one image)."""

SHARED_BYTES = 96 * 2**10
"""Bytes of shared memory that the tiles of one program may fill. A program may use 99 KiB on the
GPUs with the least (compute capability 8.6 and 8.9); the rest is the compiler's, for barriers."""


FUSED_ROWS, FUSED_SHIFTS, FUSED_HEADS, FUSED_WIDTH = 4, 8, 4, 32
"""What the fused kernel computes: a program has 4 rows and 4 heads of 8 neighbouring queries, which
share a window of at most 32 columns."""


@dataclass(frozen=True)
class Tile:
    """What one program of a kernel computes, and how Triton runs it.

    Attributes:
        rows: rows of the image; a program covers one block of columns of each.
        channels: channels of the values.
        warps, stages: Triton's ``num_warps`` and ``num_stages``.
    """

    rows: int
    channels: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Plan:
    """How the kernels divide the work. Triton requires powers of two for the sizes of blocks.

    Attributes:
        shifts: queries of one row that form a block and share a window.
        width: columns of that window, at least shifts + scope - 1.
        step: columns of the window in one matrix product.
        group: heads in one tile.
        span: blocks of queries in one matrix product of the values' gradient.
        output, weights, values: tiles of the output, of the weights' gradient and of the values'
            gradient.
        fused: tile of the kernel that computes the output without weights in memory, if it can.
        workspace: bound of the weights' memory, in bytes.
    """

    shifts: int
    width: int
    step: int
    group: int
    span: int
    output: Tile
    weights: Tile
    values: Tile
    fused: Tile | None = None
    workspace: int = WORKSPACE_BYTES


@dataclass(frozen=True)
class Chunk:
    """The images from first_image on, and of each image the rows from first_row on."""

    first_image: int
    images: int
    first_row: int
    rows: int


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << max(0, number - 1).bit_length()


def make_plan(
    *,
    heads: int,
    depth: int,
    sets: int,
    height: int,
    channels: int,
    columns: int,
    dtype: torch.dtype,
    fuse: bool = True,
) -> Plan:
    """Make the plan for these shapes.

    Args:
        heads, depth: number of heads h and their depth k.
        sets: intra-depth u of the values.
        height: rows of the image.
        channels: value channels v of one head.
        columns: columns rw of the embedding.
        dtype: common dtype of query and value.
        fuse: whether the fused kernel may be taken.
    """
    shifts, width = min(
        ((shifts, window_width(shifts + columns - 1)) for shifts in (8, 16, 32)),
        # Memory grows with the width; with fewer queries for each window the values are loaded
        # more often.
        key=lambda pair: pair[1] * (1 + 4 / pair[0]),
    )
    size = dtype.itemsize
    step = min(width, 64)
    queries = 512 // (2 * size)
    group = min(power_of_two(heads), 8, queries // shifts)
    span = max(1, min(step // shifts, (128 // size) // (shifts * group)))
    block = max(16, min(power_of_two(channels), 128 if size == 2 else 64))
    tallest = max(power_of_two(height), 2)  # 2: tl.dot needs at least 16 rows
    rows = max(1, min(queries // (shifts * group), tallest))
    key_rows = max(1, min(queries // (2 * shifts), tallest))
    lanes, key_lanes = rows * shifts * group, key_rows * shifts
    key_depth = span * shifts * group
    # The gradient of the weights keeps the gradient of the output, unless it has to be loaded in
    # parts, and its result passes through shared memory.
    in_parts = channels > block
    kept = lanes * (step + (0 if in_parts else block)) * size
    loaded = (step + (lanes if in_parts else 0)) * block * size
    return Plan(
        shifts=shifts,
        width=width,
        step=step,
        group=group,
        span=span,
        output=_tile(rows, block, lanes, 0, (lanes + block) * step * size),
        weights=_tile(rows, block, lanes, kept, loaded),
        values=_tile(key_rows, block, key_lanes, 0, (key_lanes + block) * key_depth * size),
        fused=_fused(heads, depth, sets, channels, columns) if fuse and size == 2 else None,
    )


def window_width(columns: int) -> int:
    """The columns of a window that a kernel computes for ``columns`` that are needed."""
    return max(16, power_of_two(columns)) if columns <= 64 else -(-columns // 64) * 64


def _fused(heads: int, depth: int, sets: int, channels: int, columns: int) -> Tile | None:
    fits = window_width(FUSED_SHIFTS + columns - 1) <= FUSED_WIDTH
    if not fits or heads != FUSED_HEADS or sets != 1 or depth not in (16, 32) or channels < 16:
        return None
    # 128 channels would need more registers than compute capability 8 has for a thread.
    return Tile(FUSED_ROWS, min(power_of_two(channels), 64), warps=8, stages=3)


def _tile(rows: int, channels: int, lanes: int, kept: int, loaded: int) -> Tile:
    """A tile of lanes × channels sums whose program keeps ``kept`` bytes in shared memory and loads
    ``loaded`` bytes in each step."""
    return Tile(
        rows=rows,
        channels=channels,
        warps=8 if lanes * channels >= 128 * 128 else 4,
        stages=max(1, min(3, (SHARED_BYTES - kept) // loaded)),
    )


def chunks(images: int, height: int, row_bytes: int, workspace: int) -> Iterator[Chunk]:
    """Divide the images into chunks whose weights fit into the workspace.

    A chunk holds whole images if one image fits, and otherwise some rows of one image.

    Args:
        images: number of images N.
        height: rows of an image.
        row_bytes: bytes of the weights of one row of one image.
        workspace: bytes of the workspace.
    """
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
    """The size of the parts if ``total`` is divided evenly into parts of at most ``most``."""
    parts = -(-total // most)
    return -(-total // parts)
