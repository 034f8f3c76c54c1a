"""Triton kernels of the position lambda that compute q·E first and multiply by the values after.

The products q·E are called weights here. a[s, n, y, b, h, u, dy, c] is the weight with which the
query of head h at (y, x = b * SHIFTS + s) adds the value of set u at
(y + dy - RH // 2, b * SHIFTS - RW // 2 + c). All queries of one block b use the same WIDTH columns
of the values, so a tile of weights can be loaded from contiguous memory and be an operand of a
matrix product without rearrangement. A query's own window starts at column c = s; the weights
beside it are zero. ``triton_launch`` makes the weights, which cover ``rows`` rows from
``first_row`` on. The kernels process the HEADS heads GROUP at a time.

Importing this module imports Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gather_values(
    weights, value, output,
    shift_stride, value_n, value_u, value_y, value_x,
    height, width, blocks, first_row, rows, channels,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SETS: tl.constexpr,
    RH: tl.constexpr, RW: tl.constexpr, SHIFTS: tl.constexpr, WIDTH: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """output[n, y, x, h, :] = sum of weights times values.

    One program computes ROWS rows of one block.
    """
    block = tl.program_id(0) % blocks
    top = (tl.program_id(0) // blocks) * ROWS
    head_groups: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    n = tl.program_id(1) // head_groups
    lane = tl.arange(0, ROWS * SHIFTS * GROUP)
    head = (tl.program_id(1) % head_groups) * GROUP + lane % GROUP
    shift = (lane // GROUP) % SHIFTS
    row = top + lane // (GROUP * SHIFTS)
    x = block * SHIFTS + shift
    ok = (row < rows) & (head < HEADS) & (x < width)
    y = first_row + row
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    column = tl.arange(0, STEP)
    query = ((n * rows + row) * blocks + block) * HEADS + head
    weights += shift * shift_stride + query * (SETS * RH * WIDTH)
    value += n.to(tl.int64) * value_n

    steps: tl.constexpr = WIDTH // STEP
    low = tl.maximum(first_row + top - RH // 2, 0)
    high = tl.minimum(first_row + tl.minimum(top + ROWS, rows) + RH // 2, height)
    total = tl.zeros([ROWS * SHIFTS * GROUP, CHANNELS], dtype=tl.float32)
    for u in range(SETS):
        for step in range((high - low) * steps):
            key_y = low + step // steps
            c = (step % steps) * STEP + column
            dy = key_y - y + RH // 2
            a = tl.load(
                weights[:, None] + ((u * RH + dy) * WIDTH)[:, None] + c[None, :],
                mask=(ok & (dy >= 0) & (dy < RH))[:, None],
                other=0.0,
            )
            key_x = block * SHIFTS - RW // 2 + c
            b = tl.load(
                value + u * value_u + key_y * value_y
                + key_x[:, None] * value_x + channel[None, :],
                mask=((key_x >= 0) & (key_x < width))[:, None] & (channel < channels)[None, :],
                other=0.0,
            )  # fmt: skip
            total = tl.dot(a, b, total, input_precision=PRECISION)

    pixel = (n.to(tl.int64) * height + y) * width + x
    tl.store(
        output + ((pixel * HEADS + head) * channels)[:, None] + channel[None, :],
        total.to(output.dtype.element_ty),
        mask=ok[:, None] & (channel < channels)[None, :],
    )


@triton.jit
def weight_gradient(
    output_gradient, value, gradient,
    shift_stride, value_n, value_u, value_y, value_x,
    height, width, blocks, first_row, rows, channels,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SETS: tl.constexpr,
    RH: tl.constexpr, RW: tl.constexpr, SHIFTS: tl.constexpr, WIDTH: tl.constexpr,
    STEP: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the weights, in the weights' memory layout.

    The kernel writes every element, because the matrix products after it read them all. Queries
    beyond the width and offsets that lead outside the image get zeros.
    """
    block = tl.program_id(0) % blocks
    top = (tl.program_id(0) // blocks) * ROWS
    head_groups: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    n = tl.program_id(1) // head_groups
    lane = tl.arange(0, ROWS * SHIFTS * GROUP)
    head = (tl.program_id(1) % head_groups) * GROUP + lane % GROUP
    shift = (lane // GROUP) % SHIFTS
    row = top + lane // (GROUP * SHIFTS)
    x = block * SHIFTS + shift
    stored = (row < rows) & (head < HEADS)
    ok = stored & (x < width)
    y = first_row + row
    channel = tl.arange(0, CHANNELS)
    column = tl.arange(0, STEP)
    query = ((n * rows + row) * blocks + block) * HEADS + head
    gradient += shift * shift_stride + query * (SETS * RH * WIDTH)
    pixel = (n.to(tl.int64) * height + y) * width + x
    output_gradient += (pixel * HEADS + head) * channels
    value += n.to(tl.int64) * value_n

    if PARTS == 1:
        g = tl.load(
            output_gradient[:, None] + channel[None, :],
            mask=ok[:, None] & (channel < channels)[None, :],
            other=0.0,
        )
    steps: tl.constexpr = WIDTH // STEP
    low = first_row + top - RH // 2
    for u in range(SETS):
        for step in range((ROWS + RH - 1) * steps):
            key_y = low + step // steps
            c = (step % steps) * STEP + column
            key_x = block * SHIFTS - RW // 2 + c
            inside = (key_y >= 0) & (key_y < height) & (key_x >= 0) & (key_x < width)
            total = tl.zeros([ROWS * SHIFTS * GROUP, STEP], dtype=tl.float32)
            for part in range(PARTS):
                some = part * CHANNELS + channel
                if PARTS > 1:
                    g = tl.load(
                        output_gradient[:, None] + some[None, :],
                        mask=ok[:, None] & (some < channels)[None, :],
                        other=0.0,
                    )
                b = tl.load(
                    value + u * value_u + key_y * value_y
                    + key_x[:, None] * value_x + some[None, :],
                    mask=inside[:, None] & (some < channels)[None, :],
                    other=0.0,
                )  # fmt: skip
                total = tl.dot(g, tl.trans(b), total, input_precision=PRECISION)
            own = (c[None, :] >= shift[:, None]) & (c[None, :] < shift[:, None] + RW)
            dy = key_y - y + RH // 2
            tl.store(
                gradient[:, None] + ((u * RH + dy) * WIDTH)[:, None] + c[None, :],
                tl.where(own, total, 0.0).to(gradient.dtype.element_ty),
                mask=(stored & (dy >= 0) & (dy < RH))[:, None],
            )


@triton.jit
def value_gradient(
    weights, output_gradient, gradient,
    shift_stride,
    height, width, blocks, tiles, first_row, rows, channels,
    HEADS: tl.constexpr, GROUP: tl.constexpr, SETS: tl.constexpr,
    RH: tl.constexpr, RW: tl.constexpr, SHIFTS: tl.constexpr, WIDTH: tl.constexpr,
    SPAN: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, ACCUMULATE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """gradient[n, y, x, u, :] = sum over the queries whose window contains (y, x).

    One program computes ROWS rows of one tile of SHIFTS columns, from tile * SHIFTS - RW // 2 on.
    Such a tile is in the windows of WIDTH // SHIFTS blocks of queries: the blocks tile, tile - 1,
    ..., which the program processes SPAN at a time. Of a window each of them needs SHIFTS columns
    only, so the weights of a query are ordered (u, column // SHIFTS, dy, column % SHIFTS) here:
    what a program loads of a query is contiguous.
    """
    tile = tl.program_id(0) % tiles
    top = (tl.program_id(0) // tiles) * ROWS
    n = tl.program_id(1) // SETS
    u = tl.program_id(1) % SETS
    lane = tl.arange(0, ROWS * SHIFTS)
    key_y = top + lane // SHIFTS
    key_x = tile * SHIFTS - RW // 2 + lane % SHIFTS
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    queries = tl.arange(0, SPAN * SHIFTS * GROUP)
    shift = (queries // GROUP) % SHIFTS

    pixel = (n.to(tl.int64) * height + key_y) * width + key_x
    target = gradient + ((pixel * SETS + u) * channels)[:, None] + channel[None, :]
    ok = (key_y < height) & (key_x >= 0) & (key_x < width)
    ok = ok[:, None] & (channel < channels)[None, :]
    if ACCUMULATE:
        total = tl.load(target, mask=ok, other=0.0).to(tl.float32)
    else:
        total = tl.zeros([ROWS * SHIFTS, CHANNELS], dtype=tl.float32)

    head_groups: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    steps: tl.constexpr = WIDTH // (SHIFTS * SPAN) * head_groups
    low = tl.maximum(top - RH // 2, first_row)
    high = tl.minimum(top + ROWS + RH // 2, first_row + rows)
    for step in range(tl.maximum(high - low, 0) * steps):
        y = low + step // steps
        head = (step % head_groups) * GROUP + queries % GROUP
        part = (step % steps) // head_groups * SPAN + queries // (GROUP * SHIFTS)
        block = tile - part
        x = block * SHIFTS + shift
        taken = (head < HEADS) & (block >= 0) & (x < width)
        query = ((n * rows + y - first_row) * blocks + block) * HEADS + head
        source = shift * shift_stride + query * (SETS * RH * WIDTH)
        source += (u * (WIDTH // SHIFTS) + part) * (RH * SHIFTS)
        dy = key_y - y + RH // 2
        a = tl.load(
            weights + source[None, :] + ((top - y + RH // 2) * SHIFTS + lane)[:, None],
            mask=taken[None, :] & ((dy >= 0) & (dy < RH))[:, None],
            other=0.0,
        )
        from_pixel = (n.to(tl.int64) * height + y) * width + x
        g = tl.load(
            output_gradient + ((from_pixel * HEADS + head) * channels)[:, None] + channel[None, :],
            mask=taken[:, None] & (channel < channels)[None, :],
            other=0.0,
        )
        total = tl.dot(a, g, total, input_precision=PRECISION)

    tl.store(target, total.to(gradient.dtype.element_ty), mask=ok)
