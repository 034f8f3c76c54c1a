"""The position lambda and its gradients on the kernels of ``triton_kernels``.

q·E and what belongs to it in the backward pass (the gradients of queries and embeddings) are plain
products of matrices: they are torch's. The weights between them live in a workspace of bounded
size, chunk by chunk, and are made again in the backward pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.triton_plan import Chunk, Plan, Tile, chunks


def forward(query: Tensor, value: Tensor, embedding: Tensor, plan: Plan) -> Tensor:
    """(N, H, W, h, v), contiguous and in float32, from the arguments of ``position_lambda`` in one
    type."""
    images, heads, _, height, width = query.shape
    problem = _Problem(query, value, embedding, plan)
    shape = (images, height, width, heads, value.shape[2])
    output = query.new_empty(shape, dtype=torch.float32)
    for chunk in problem.chunks():
        problem.gather_values(problem.weights(chunk), output, chunk)
    return output


def backward(
    query: Tensor, value: Tensor, embedding: Tensor, output_gradient: Tensor, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (N, H, W, h, k), value (N, H, W, u, v) and embedding (its shape and type).

    Args:
        output_gradient: (N, H, W, h, v), contiguous.
    """
    height, width = query.shape[-2:]
    problem = _Problem(query, value, embedding, plan)
    work = list(problem.chunks())
    by_rows = work[0].rows < height  # several chunks add to the gradient of one value
    value_gradient = torch.empty_like(problem.value, memory_format=torch.contiguous_format)
    if by_rows:
        value_gradient = torch.zeros_like(value_gradient, dtype=torch.float32)
    query_gradient = torch.empty_like(problem.query)
    table_gradient = 0
    for chunk in work:
        weights = problem.weights(chunk)
        problem.value_gradient(weights, output_gradient, value_gradient, chunk, by_rows)
        problem.weight_gradient(output_gradient, weights, chunk)  # in the place of the weights
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
    """One call: its tensors as the kernels want them, and their launches."""

    def __init__(self, query: Tensor, value: Tensor, embedding: Tensor, plan: Plan) -> None:
        self.plan = plan
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
        tf32 = query.is_cuda and torch.backends.cuda.matmul.allow_tf32
        self.precision = "tf32" if tf32 else "ieee"

    def chunks(self):
        row = self.plan.shifts * self.blocks * self.heads * self.columns
        row_bytes = row * self.query.dtype.itemsize
        return chunks(self.query.shape[1], self.height, row_bytes, self.plan.workspace)

    def rows_of(self, tensor: Tensor, chunk: Chunk) -> Tensor:
        """A view (shifts, queries, k) of (shifts, N, H, blocks, h, k): the chunk's."""
        rows = slice(chunk.first_row, chunk.first_row + chunk.rows)
        part = tensor[:, chunk.first_image : chunk.first_image + chunk.images, rows]
        shape = (part.shape[0], part[0].numel() // part.shape[-1], part.shape[-1])
        return part.view(shape)

    def weights(self, chunk: Chunk) -> Tensor:
        """(shifts, queries, u * rh * width) of the chunk, in the workspace."""
        query = self.rows_of(self.query, chunk)
        shape = (*query.shape[:2], self.columns)
        size = shape[0] * shape[1] * shape[2]
        if self.workspace is None:  # no chunk is larger than the first
            self.workspace = query.new_empty(size)
        return torch.bmm(query, self.table, out=self.workspace[:size].view(shape))

    def table_gradient(self, weight_gradient: Tensor, chunk: Chunk) -> Tensor:
        """(shifts, k, u * rh * width) in float32: the chunk's part, image by image."""
        query = self.rows_of(self.query, chunk)
        shifts, queries, depth = query.shape
        parts = shifts * chunk.images  # one long sum for each would leave most of a GPU idle
        query = query.reshape(parts, queries // chunk.images, depth).transpose(1, 2)
        weight_gradient = weight_gradient.view(parts, queries // chunk.images, self.columns)
        if query.dtype == torch.float32:
            products = torch.bmm(query, weight_gradient)
        elif query.is_cuda and hasattr(torch.ops.aten.bmm, "dtype"):  # PyTorch 2.8
            products = torch.bmm(query, weight_gradient, out_dtype=torch.float32)
        else:
            products = torch.bmm(query.float(), weight_gradient.float())
        return products.view(shifts, chunk.images, depth, self.columns).sum(1)

    def gather_values(self, weights: Tensor, output: Tensor, chunk: Chunk) -> None:
        from lambda_det.layers import triton_kernels

        tile = self.plan.output
        parts = -(-self.channels // tile.channels)
        self._launch(
            triton_kernels.gather_values,
            (self._row_tiles(chunk.rows, tile) * self.blocks, self._groups(chunk), parts),
            (weights, self._images(self.value, chunk), self._images(output, chunk)),
            (weights.stride(0), *self._value_strides()),
            (self.height, self.width, self.blocks, chunk.first_row, chunk.rows, self.channels),
            tile,
            STEP=self.plan.step,
        )

    def weight_gradient(self, output_gradient: Tensor, weights: Tensor, chunk: Chunk) -> None:
        from lambda_det.layers import triton_kernels

        tile = self.plan.weights
        self._launch(
            triton_kernels.weight_gradient,
            (self._row_tiles(chunk.rows, tile) * self.blocks, self._groups(chunk), 1),
            (self._images(output_gradient, chunk), self._images(self.value, chunk), weights),
            (weights.stride(0), *self._value_strides()),
            (self.height, self.width, self.blocks, chunk.first_row, chunk.rows, self.channels),
            tile,
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
        sizes = (self.height, self.width, self.blocks, tiles)
        self._launch(
            triton_kernels.value_gradient,
            (self._row_tiles(self.height, tile) * tiles, chunk.images * self.sets, parts),
            (weights, self._images(output_gradient, chunk), self._images(value_gradient, chunk)),
            (weights.stride(0),),
            (*sizes, chunk.first_row, chunk.rows, self.channels),
            tile,
            SPAN=self.plan.span,
            ACCUMULATE=accumulate,
        )

    def _launch(
        self, kernel, grid: tuple, tensors: tuple, strides: tuple, sizes: tuple, tile: Tile, **more
    ) -> None:
        with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
            kernel[grid](
                *tensors, *strides, *sizes,
                HEADS=self.heads, GROUP=self.plan.group, SETS=self.sets,
                RH=self.scope_rows, RW=self.scope_columns,
                SHIFTS=self.plan.shifts, WIDTH=self.plan.width,
                ROWS=tile.rows, CHANNELS=tile.channels, PRECISION=self.precision,
                num_warps=tile.warps, num_stages=tile.stages, **more,
            )  # fmt: skip

    def _value_strides(self) -> tuple[int, int, int, int]:
        n, y, x, u, _ = self.value.stride()
        return n, u, y, x

    def _groups(self, chunk: Chunk) -> int:
        return chunk.images * -(-self.heads // self.plan.group)

    @staticmethod
    def _row_tiles(rows: int, tile: Tile) -> int:
        return -(-rows // tile.rows)

    @staticmethod
    def _images(tensor: Tensor, chunk: Chunk) -> Tensor:
        return tensor[chunk.first_image : chunk.first_image + chunk.images]


def _by_shifts(query: Tensor, shifts: int) -> Tensor:
    """(shifts, N, H, blocks, h, k) of (N, h, k, H, W): x = block * shifts + shift, else zeros."""
    beyond = -query.shape[-1] % shifts
    if beyond:
        query = F.pad(query, (0, beyond))
    query = query.unflatten(-1, (-1, shifts))  # (N, h, k, H, blocks, shifts)
    return query.permute(5, 0, 3, 4, 1, 2).contiguous()


def _from_shifts(query: Tensor, width: int) -> Tensor:
    """(N, H, W, h, k) of (shifts, N, H, blocks, h, k)."""
    return query.permute(1, 2, 3, 0, 4, 5).flatten(2, 3)[:, :, :width].contiguous()


def _table_view(table: Tensor, embedding: Tensor, plan: Plan) -> Tensor:
    """Of (shifts, k, u * rh * width) the entries (shifts, k, u, rh, rw) that are the windows."""
    depth, sets, rows, columns = embedding.shape
    _, k, u, y = table.view(plan.shifts, depth, sets, rows, plan.width).stride()[:4]
    size = (plan.shifts, depth, sets, rows, columns)
    return table.as_strided(size, (depth * k + 1, k, u, y, 1))  # one further right at every shift


def _table(embedding: Tensor, plan: Plan) -> Tensor:
    """(shifts, k, u * rh * width): the embeddings as the queries of every shift need them."""
    depth, sets, rows, _ = embedding.shape
    table = embedding.new_zeros(plan.shifts, depth, sets * rows * plan.width)
    _table_view(table, embedding, plan).copy_(embedding.expand(plan.shifts, -1, -1, -1, -1))
    return table


def _from_table(table: Tensor, embedding: Tensor, plan: Plan) -> Tensor:
    return _table_view(table, embedding, plan).sum(0).to(embedding.dtype)
