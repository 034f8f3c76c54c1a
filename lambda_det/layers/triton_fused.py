"""The Triton kernel of the position lambda that holds q·E in registers and never in memory.

It computes the output in half precision, for four heads and for at most 25 columns of embeddings,
so that SHIFTS = 8 neighbouring queries share a window of WIDTH <= 32. One program computes four
rows of two neighbouring blocks of SHIFTS columns: 2 x 128 queries. In the step of key row t,

- the queries of a column are multiplied by row t of the embeddings, shifted by the column: a
  product of SHIFTS small matrices, for which both blocks use one tile of embeddings;
- all queries of a block are multiplied by the same WIDTH values: one product of 128 rows.

For one key row, though, the query of row y needs row t - y of the embeddings. The products q·E
therefore wait y steps in registers, in pairs of 16-bit numbers.

Importing this module imports Triton.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from lambda_det.layers.triton_plan import FUSED_ROWS, FUSED_SHIFTS, Tile, window_width

COMPILES = hasattr(tl, "dot_scaled")
"""Whether this Triton compiles the kernel. Triton 3.0 and 3.1, of PyTorch 2.4 and 2.5, do not take
its casts, and abort the process at what follows; ``tl.dot_scaled`` is new in Triton 3.2."""


def forward(
    query: Tensor, value: Tensor, embedding: Tensor, tile: Tile, launch: Callable[..., None]
) -> Tensor:
    """As :func:`lambda_det.layers.triton_launch.forward`, for arguments with such a tile."""
    images, heads, depth, height, width = query.shape
    rows, columns = embedding.shape[2:]
    window = window_width(FUSED_SHIFTS + columns - 1)
    table = embedding.new_zeros(
        (rows + FUSED_ROWS - 1, FUSED_SHIFTS + window, depth), dtype=query.dtype
    )
    table[:rows, FUSED_SHIFTS : FUSED_SHIFTS + columns] = embedding[:, 0].permute(1, 2, 0)
    value = value[:, 0].permute(0, 2, 3, 1)  # (N, H, W, v)
    if value.stride(-1) != 1:
        value = value.contiguous()
    channels = value.shape[-1]
    output = query.new_empty((images, height, width, heads, channels), dtype=torch.float32)
    blocks = -(-width // FUSED_SHIFTS)
    row_tiles, pairs = -(-height // FUSED_ROWS), -(-blocks // 2)
    arguments = {
        "query": query.permute(0, 3, 4, 1, 2).contiguous(),
        "table": table,
        "value": value,
        "output": output,
        "value_n": value.stride(0),
        "value_y": value.stride(1),
        "value_x": value.stride(2),
        "height": height,
        "width": width,
        "pairs": pairs,
        "channels": channels,
        "DEPTH": depth,
        "RH": rows,
        "RW": columns,
        "SHIFTS": FUSED_SHIFTS,
        "WIDTH": window,
        "CHANNELS": tile.channels,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    grid = (row_tiles * pairs, images, -(-channels // tile.channels))
    launch(fused_forward, grid, arguments)
    return output


@triton.jit
def _pack(a):
    """Two 16-bit neighbours of the last axis in one int32: one register, one move for both."""
    shape: tl.constexpr = [a.shape[0], a.shape[1], a.shape[2] // 2, 2]
    low, high = tl.split(tl.reshape(a.to(tl.int16, bitcast=True), shape))
    return (low.to(tl.int32) & 0xFFFF) | (high.to(tl.int32) << 16)


@triton.jit
def _unpack(a, dtype: tl.constexpr):
    """What _pack has packed."""
    shape: tl.constexpr = [a.shape[0], a.shape[1], a.shape[2] * 2]
    both = tl.join(a.to(tl.int16), (a >> 16).to(tl.int16))
    return tl.reshape(both.to(dtype, bitcast=True), shape)


@triton.jit
def fused_forward(
    query, table, value, output,
    value_n, value_y, value_x,
    height, width, pairs, channels,
    DEPTH: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
    SHIFTS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """output[n, y, x, h, :] = sum of query · embedding times values.

    query is (N, height, width, 4, DEPTH), and table (RH + 3, SHIFTS + WIDTH, DEPTH): the
    embeddings, with zeros below and beside the window.
    """
    ROWS: tl.constexpr = 4
    HEADS: tl.constexpr = 4
    LANES: tl.constexpr = ROWS * HEADS  # of one column of one block
    dtype: tl.constexpr = value.dtype.element_ty
    left = (tl.program_id(0) % pairs) * (2 * SHIFTS)
    top = (tl.program_id(0) // pairs) * ROWS
    n = tl.program_id(1).to(tl.int64)

    shift = tl.arange(0, SHIFTS)
    lane = tl.arange(0, 2 * LANES)
    k = tl.arange(0, DEPTH)
    column = tl.arange(0, WIDTH)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    x = left + (lane // LANES)[None, :] * SHIFTS + shift[:, None]
    y = top + ((lane % LANES) // HEADS)[None, :]
    q = tl.load(
        query
        + ((((n * height + y) * width + x) * HEADS + (lane % HEADS)[None, :]) * DEPTH)[:, :, None]
        + k[None, None, :],
        mask=((y < height) & (x < width))[:, :, None],
        other=0.0,
    )
    embeddings = table + ((column[None, :] - shift[:, None] + SHIFTS) * DEPTH)[:, :, None]
    embeddings += k[None, None, :]
    key_x = left - RW // 2 + column
    near = ((key_x >= 0) & (key_x < width))[:, None] & (channel < channels)[None, :]
    far = ((key_x + SHIFTS >= 0) & (key_x + SHIFTS < width))[:, None]
    far = far & (channel < channels)[None, :]
    values = value + n * value_n + key_x[:, None] * value_x + channel[None, :]

    near_sum = tl.zeros([SHIFTS * LANES, CHANNELS], dtype=tl.float32)
    far_sum = tl.zeros([SHIFTS * LANES, CHANNELS], dtype=tl.float32)
    # What the next step needs, what the one after it, and the last product: each is the result of
    # where(), because a loop that carries one tensor under two names is not pipelined, and one
    # whose carried tensors begin as one tensor is compiled wrongly (Triton 3.8).
    next_1 = tl.zeros([SHIFTS, 2 * LANES, WIDTH // 2], dtype=tl.int32)
    next_2 = tl.zeros([SHIFTS, 2 * LANES, WIDTH // 2], dtype=tl.int32)
    next_3 = tl.zeros([SHIFTS, 2 * LANES, WIDTH // 2], dtype=tl.int32)
    row = ((lane % LANES) // HEADS)[None, :, None]
    first = tl.maximum(RH // 2 - top - (ROWS - 1), 0)
    last = tl.minimum(RH + ROWS - 1, height + RH // 2 - top)
    for t in range(first, last):
        e = tl.load(embeddings + t * ((SHIFTS + WIDTH) * DEPTH))
        key_y = top - RH // 2 + t
        near_v = tl.load(values + key_y * value_y, mask=near & (key_y >= 0), other=0.0)
        far_v = tl.load(
            values + key_y * value_y + SHIFTS * value_x, mask=far & (key_y >= 0), other=0.0
        )
        new = _pack(tl.dot(q, tl.permute(e, (0, 2, 1))).to(dtype))
        a = _unpack(tl.where(row == 0, new, next_1), dtype)
        next_1 = tl.where(row <= 1, new, next_2)  # row 0 does not look at it
        next_2 = tl.where(row == 2, new, next_3)
        next_3 = new
        a = tl.permute(tl.reshape(a, (SHIFTS, 2, LANES, WIDTH)), (0, 2, 3, 1))
        near_a, far_a = tl.split(a)
        near_sum = tl.dot(tl.reshape(near_a, (SHIFTS * LANES, WIDTH)), near_v, near_sum)
        far_sum = tl.dot(tl.reshape(far_a, (SHIFTS * LANES, WIDTH)), far_v, far_sum)

    lane = tl.arange(0, SHIFTS * LANES)
    x = left + lane // LANES
    y = top + (lane % LANES) // HEADS
    at = output + ((((n * height + y) * width + x) * HEADS + lane % HEADS) * channels)[:, None]
    at += channel[None, :]
    stored = (channel < channels)[None, :] & (y < height)[:, None]
    tl.store(at, near_sum.to(output.dtype.element_ty), mask=stored & (x < width)[:, None])
    at += (SHIFTS * HEADS) * channels
    tl.store(at, far_sum.to(output.dtype.element_ty), mask=stored & (x + SHIFTS < width)[:, None])
