"""Tiles and chunks of the Triton back end."""

from __future__ import annotations

import itertools

import pytest
import torch

from lambda_det.layers.triton_plan import SHARED_BYTES, chunks, make_plan, power_of_two


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("columns", [1, 3, 7, 15, 23, 31, 41, 57, 59, 63, 127, 255])
def test_plan_is_one_that_the_kernels_can_run(dtype, columns) -> None:
    for heads, channels, height in itertools.product(
        (1, 3, 4, 8, 20), (1, 30, 64, 128, 512), (1, 25, 64)
    ):
        plan = make_plan(
            heads=heads,
            depth=16,
            sets=1,
            height=height,
            channels=channels,
            columns=columns,
            dtype=dtype,
        )
        assert plan.width >= plan.shifts + columns - 1  # the window of every query of a block
        assert plan.width % plan.step == 0 == plan.width % (plan.shifts * plan.span)
        for size in (plan.shifts, plan.step, plan.group, plan.span):
            assert size == power_of_two(size)
        for tile in (plan.output, plan.weights, plan.values):
            assert tile.rows == power_of_two(tile.rows)
            assert tile.channels == power_of_two(tile.channels)
        # Every side of a product of matrices has at least 16 elements.
        sides = (
            plan.output.rows * plan.shifts * plan.group,
            plan.weights.rows * plan.shifts * plan.group,
            plan.values.rows * plan.shifts,
            plan.span * plan.shifts * plan.group,
            plan.step,
            plan.output.channels,
            plan.weights.channels,
            plan.values.channels,
        )
        assert min(sides) >= 16
        lanes, depth = sides[0], sides[3]
        assert max(lanes, depth) <= 256 // dtype.itemsize
        key_lanes, block = sides[2], plan.weights.channels
        in_parts = channels > block
        for tile, kept, loaded in (
            (plan.output, 0, (lanes + block) * plan.step),
            (plan.values, 0, (key_lanes + block) * depth),
            (
                plan.weights,
                lanes * plan.step + (0 if in_parts else lanes * block),
                block * plan.step + (lanes * block if in_parts else 0),
            ),
        ):
            assert (kept + loaded * tile.stages) * dtype.itemsize <= SHARED_BYTES


def test_plan_of_the_paper_wastes_little() -> None:
    shape = {"heads": 4, "depth": 16, "sets": 1, "height": 64, "channels": 64, "columns": 23}
    plan = make_plan(**shape, dtype=torch.bfloat16)
    assert (plan.shifts, plan.width, plan.group) == (8, 32, 4)
    assert plan.fused is not None
    assert make_plan(**shape, dtype=torch.float32).fused is None
    for other in ({"heads": 8}, {"depth": 8}, {"sets": 2}, {"channels": 8}, {"columns": 27}):
        assert make_plan(**(shape | other), dtype=torch.float16).fused is None


@pytest.mark.parametrize("workspace", [1, 10, 50, 99, 100, 230, 499, 10**6])
@pytest.mark.parametrize(("images", "height"), [(1, 1), (3, 7), (5, 10)])
def test_chunks_cover_every_row_once_within_the_bound(workspace, images, height) -> None:
    seen = []
    for chunk in chunks(images, height, 10, workspace):
        assert chunk.images * chunk.rows * 10 <= max(workspace, 10)
        assert chunk.images == 1 or chunk.rows == height
        seen += [
            (chunk.first_image + image, chunk.first_row + row)
            for image in range(chunk.images)
            for row in range(chunk.rows)
        ]
    assert seen == [(image, row) for image in range(images) for row in range(height)]
    if workspace >= 10 * images * height:
        assert len(list(chunks(images, height, 10, workspace))) == 1
