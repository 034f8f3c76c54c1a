"""Computes the position lambda and its gradients with the kernels of ``triton_kernels``.

q·E and its backward (the gradients of queries and embeddings) are plain matrix products, which
``torch.bmm`` computes. The weights q·E are held in a workspace of bounded size, one chunk of the
images at a time, and are computed again in the backward pass. The forward pass needs no weights in
memory where ``triton_fused`` can compute it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.precision import tf32_is_allowed
from lambda_det.layers.triton_plan import Chunk, Plan, Tile, chunks

HALF_INTO_FLOAT32 = hasattr(torch.ops.aten.bmm, "dtype")
"""Whether ``torch.bmm`` takes ``out_dtype`` on CUDA, which is new in PyTorch 2.8."""

Launch = Callable[[Any, tuple[int, ...], Mapping[str, Any]], None]
"""Runs a kernel on a grid with its arguments by name, ``num_warps`` and ``num_stages`` included."""


def launch_kernel(kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
    """Run a kernel on the device of its tensors."""
    tensor = next(value for value in arguments.values() if isinstance(value, Tensor))
    with torch.cuda.device_of(tensor):  # Triton launches on the current device
        kernel[grid](**arguments)


def forward(
    query: Tensor, value: Tensor, embedding: Tensor, plan: Plan, launch: Launch = launch_kernel
) -> Tensor:
    """The position lambda, applied to the queries.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`; query and value
            have the same dtype.
        plan: tile sizes for these arguments.
        launch: what runs the kernels. The studies put in its place what compiles them for a GPU
            that is not there.

    Returns:
        (N, H, W, h, v), contiguous and in float32.
    """
    if plan.fused is not None:
        from lambda_det.layers import triton_fused

        return triton_fused.forward(query, value, embedding, plan.fused, launch)
    images, heads, _, height, width = query.shape
    problem = _Problem(query, value, embedding, plan, launch)
    shape = (images, height, width, heads, value.shape[2])
    output = query.new_empty(shape, dtype=torch.float32)
    for chunk in problem.chunks():
        problem.gather_values(problem.weights(chunk, problem.table), output, chunk)
    return output


def backward(
    query: Tensor,
    value: Tensor,
    embedding: Tensor,
    output_gradient: Tensor,
    plan: Plan,
    launch: Launch = launch_kernel,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to query, value and embedding.

    Args:
        query, value, embedding, plan, launch: as in :func:`forward`.
        output_gradient: gradient of the output, (N, H, W, h, v), contiguous, in query's dtype.

    Returns:
        (N, H, W, h, k) of the query, (N, H, W, u, v) of the value, and a tensor with the
        embedding's shape and dtype.
    """
    height, width = query.shape[-2:]
    problem = _Problem(query, value, embedding, plan, launch)
    work = list(problem.chunks())
    by_rows = work[0].rows < height  # then several chunks add to the gradient of one value
    value_gradient = torch.empty_like(problem.value, memory_format=torch.contiguous_format)
    if by_rows:
        value_gradient = torch.zeros_like(value_gradient, dtype=torch.float32)
    query_gradient = torch.empty_like(problem.query)
    table_gradient = 0
    by_columns = problem.table_by_columns()
    for chunk in work:
        weights = problem.weights(chunk, by_columns)
        problem.value_gradient(weights, output_gradient, value_gradient, chunk, by_rows)
        problem.weight_gradient(output_gradient, weights, chunk)  # overwrites the weights
        torch.bmm(
            weights, problem.table.transpose(1, 2), out=problem.rows_of(query_gradient, chunk)
        )
        table_gradient = table_gradient + problem.table_gradient(weights, chunk)
    return (
        _from_shifts(query_gradient, width),
        value_gradient.to(value.dtype),
        _from_table(table_gradient, embedding, plan),
    )


class _Problem:
    """The tensors of one call in the kernels' memory layout, and the launches of the kernels."""

    def __init__(
        self, query: Tensor, value: Tensor, embedding: Tensor, plan: Plan, launch: Launch
    ) -> None:
        self.plan, self.launch = plan, launch
        self.heads, self.height, self.width = query.shape[1], query.shape[3], query.shape[4]
        self.channels = value.shape[2]
        self.sets, self.scope_rows, self.scope_columns = embedding.shape[1:]
        self.query = _by_shifts(query, plan.shifts)
        self.table = _table(embedding.to(query.dtype), plan)
        self.value = value.permute(0, 3, 4, 1, 2)  # (N, H, W, u, v)
        if self.value.stride(-1) != 1:
            self.value = self.value.contiguous()
        self.blocks = self.query.shape[3]
        self.columns = self.table.shape[-1]
        self.workspace: Tensor | None = None
        self.precision = "tf32" if query.is_cuda and tf32_is_allowed()[0] else "ieee"

    def chunks(self):
        row = self.plan.shifts * self.blocks * self.heads * self.columns
        row_bytes = row * self.query.dtype.itemsize
        return chunks(self.query.shape[1], self.height, row_bytes, self.plan.workspace)

    def rows_of(self, tensor: Tensor, chunk: Chunk) -> Tensor:
        """The chunk's part of ``tensor`` (shifts, N, H, blocks, h, k) as (shifts, queries, k)."""
        rows = slice(chunk.first_row, chunk.first_row + chunk.rows)
        part = tensor[:, chunk.first_image : chunk.first_image + chunk.images, rows]
        shape = (part.shape[0], part[0].numel() // part.shape[-1], part.shape[-1])
        return part.view(shape)

    def table_by_columns(self) -> Tensor:
        """The table in the order that the kernel ``value_gradient`` needs: of each window the
        columns of one block of queries after those of another."""
        shifts = self.plan.shifts
        shape = (shifts, -1, self.sets, self.scope_rows, self.plan.width // shifts, shifts)
        return self.table.view(shape).transpose(3, 4).reshape(self.table.shape)

    def weights(self, chunk: Chunk, table: Tensor) -> Tensor:
        """The chunk's weights q·E (shifts, queries, u * rh * width), a view of the workspace."""
        query = self.rows_of(self.query, chunk)
        shape = (*query.shape[:2], self.columns)
        size = shape[0] * shape[1] * shape[2]
        if self.workspace is None:  # the first chunk is the largest
            self.workspace = query.new_empty(size)
        return torch.bmm(query, table, out=self.workspace[:size].view(shape))

    def table_gradient(self, weight_gradient: Tensor, chunk: Chunk) -> Tensor:
        """The chunk's part of the table's gradient: (shifts, k, u * rh * width) in float32."""
        query = self.rows_of(self.query, chunk)
        shifts, queries, depth = query.shape
        # One product for each image: a long sum for each shift would leave most of a GPU idle.
        parts = shifts * chunk.images
        query = query.reshape(parts, queries // chunk.images, depth).transpose(1, 2)
        weight_gradient = weight_gradient.view(parts, queries // chunk.images, self.columns)
        products = _float32_products(query, weight_gradient, shifts)
        return products.view(shifts, chunk.images, depth, self.columns).sum(1)

    def gather_values(self, weights: Tensor, output: Tensor, chunk: Chunk) -> None:
        from lambda_det.layers import triton_kernels

        tile = self.plan.output
        parts = -(-self.channels // tile.channels)
        self._launch(
            triton_kernels.gather_values,
            (self._row_tiles(chunk.rows, tile) * self.blocks, self._groups(chunk), parts),
            tile,
            chunk,
            weights=weights,
            value=self._images(self.value, chunk),
            output=self._images(output, chunk),
            **self._value_strides(),
            STEP=self.plan.step,
        )

    def weight_gradient(self, output_gradient: Tensor, weights: Tensor, chunk: Chunk) -> None:
        from lambda_det.layers import triton_kernels

        tile = self.plan.weights
        self._launch(
            triton_kernels.weight_gradient,
            (self._row_tiles(chunk.rows, tile) * self.blocks, self._groups(chunk), 1),
            tile,
            chunk,
            output_gradient=self._images(output_gradient, chunk),
            value=self._images(self.value, chunk),
            gradient=weights,
            **self._value_strides(),
            STEP=self.plan.step,
            PARTS=-(-self.channels // tile.channels),
        )

    def value_gradient(
        self,
        weights: Tensor,
        output_gradient: Tensor,
        value_gradient: Tensor,
        chunk: Chunk,
        accumulate: bool,
    ) -> None:
        from lambda_det.layers import triton_kernels

        tile = self.plan.values
        tiles = (self.width - 1 + self.scope_columns // 2) // self.plan.shifts + 1
        parts = -(-self.channels // tile.channels)
        self._launch(
            triton_kernels.value_gradient,
            (self._row_tiles(self.height, tile) * tiles, chunk.images * self.sets, parts),
            tile,
            chunk,
            weights=weights,
            output_gradient=self._images(output_gradient, chunk),
            gradient=self._images(value_gradient, chunk),
            tiles=tiles,
            SPAN=self.plan.span,
            ACCUMULATE=accumulate,
        )

    def _launch(self, kernel, grid: tuple[int, ...], tile: Tile, chunk: Chunk, **own) -> None:
        queries = chunk.images * chunk.rows * self.blocks * self.heads
        common = {
            "shift_stride": queries * self.columns,
            "height": self.height,
            "width": self.width,
            "blocks": self.blocks,
            "first_row": chunk.first_row,
            "rows": chunk.rows,
            "channels": self.channels,
            "HEADS": self.heads,
            "GROUP": self.plan.group,
            "SETS": self.sets,
            "RH": self.scope_rows,
            "RW": self.scope_columns,
            "SHIFTS": self.plan.shifts,
            "WIDTH": self.plan.width,
            "ROWS": tile.rows,
            "CHANNELS": tile.channels,
            "PRECISION": self.precision,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }
        self.launch(kernel, grid, own | common)

    def _value_strides(self) -> dict[str, int]:
        n, y, x, u, _ = self.value.stride()
        return {"value_n": n, "value_u": u, "value_y": y, "value_x": x}

    def _groups(self, chunk: Chunk) -> int:
        return chunk.images * -(-self.heads // self.plan.group)

    @staticmethod
    def _row_tiles(rows: int, tile: Tile) -> int:
        return -(-rows // tile.rows)

    @staticmethod
    def _images(tensor: Tensor, chunk: Chunk) -> Tensor:
        return tensor[chunk.first_image : chunk.first_image + chunk.images]


def _float32_products(a: Tensor, b: Tensor, pieces: int) -> Tensor:
    """``torch.bmm(a, b)`` with a result in float32 that was never rounded to less.

    Args:
        a, b: (n, r, s) and (n, s, t) of one dtype.
        pieces: parts of n; where PyTorch cannot multiply half types into float32, one part at a
            time is copied to float32, and not all of the weights.
    """
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.is_cuda and HALF_INTO_FLOAT32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    parts = zip(a.chunk(pieces), b.chunk(pieces), strict=True)
    return torch.cat([torch.bmm(some.float(), others.float()) for some, others in parts])


def _by_shifts(query: Tensor, shifts: int) -> Tensor:
    """Rearrange (N, h, k, H, W) to (shifts, N, H, blocks, h, k), with x = block * shifts + shift.

    Positions beyond the width are zeros.
    """
    beyond = -query.shape[-1] % shifts
    if beyond:
        query = F.pad(query, (0, beyond))
    query = query.unflatten(-1, (-1, shifts))  # (N, h, k, H, blocks, shifts)
    return query.permute(5, 0, 3, 4, 1, 2).contiguous()


def _from_shifts(query: Tensor, width: int) -> Tensor:
    """Rearrange (shifts, N, H, blocks, h, k) to (N, H, W, h, k), the inverse of _by_shifts."""
    return query.permute(1, 2, 3, 0, 4, 5).flatten(2, 3)[:, :, :width].contiguous()


def _table_view(table: Tensor, embedding: Tensor, plan: Plan) -> Tensor:
    """The view (shifts, k, u, rh, rw) of the table's entries that hold the embeddings.

    The other entries of the table (shifts, k, u * rh * width) lie beside the windows.
    """
    depth, sets, rows, columns = embedding.shape
    _, k, u, y = table.view(plan.shifts, depth, sets, rows, plan.width).stride()[:4]
    size = (plan.shifts, depth, sets, rows, columns)
    return table.as_strided(size, (depth * k + 1, k, u, y, 1))  # + 1: a shift moves by one column


def _table(embedding: Tensor, plan: Plan) -> Tensor:
    """The embeddings, placed for the queries of each shift: (shifts, k, u * rh * width)."""
    depth, sets, rows, _ = embedding.shape
    table = embedding.new_zeros(plan.shifts, depth, sets * rows * plan.width)
    _table_view(table, embedding, plan).copy_(embedding.expand(plan.shifts, -1, -1, -1, -1))
    return table


def _from_table(table: Tensor, embedding: Tensor, plan: Plan) -> Tensor:
    """The gradient of the embedding from that of its table."""
    return _table_view(table, embedding, plan).sum(0).to(embedding.dtype)
