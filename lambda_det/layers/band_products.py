"""The position lambda with query x embedding first, as products of banded matrices.

    A[n,h,p,u,d] = sum_k q[n,h,k,p] E[k,u,d]
    y[n,h,v,p] = sum_u sum_d A[n,h,p,u,d] V[n,u,v,p+d]

The functions work on one row of the image at a time, which is cut into tiles of a few columns. All
queries of a tile, of all heads, need values from one window, so the second sum is a product of a
matrix (queries x positions of the window) with V. That matrix is banded: its non-zero entries lie
on diagonals, because the neighbourhood moves by one column from query to query. A view with strides
along the diagonals copies A into the band, or the gradient out of it; the rest of the matrix stays
zero. Rows of the window outside the image are left out. Columns outside the image are left out as
long as the window stays at least as wide as the embedding.

This module does not use autograd: it holds the forward pass and the gradients as plain functions,
which :mod:`lambda_det.layers.banded` makes an operator. Sums are taken in at least float32, in
which products of two half-precision numbers are exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lambda_det.layers.band_tiles import (
    Group,
    Tiling,
    add_windows,
    cut,
    gather_tiles,
    gather_windows,
    scatter_tiles,
)
from lambda_det.layers.precision import at_least_float32, common_dtype

WIDEST_TILE = 14
"""Largest number of columns of a tile. Wider tiles waste more multiplications on the zeros beside
the band; the matrix products of narrower tiles are too small to be fast."""

BAND_BYTES = 4 * 2**20
"""Memory bound of the bands, in bytes. As many images are processed together as stay below it, but
at least one, whose row needs W * h * rh * (about rw + 14) numbers."""

_ALIGN = 16
_QUERIES = (4, 3, 0, 1, 2, 5)  # row, k, tile, image, h, column
_VALUES = (4, 0, 1, 3, 2, 5)  # row, tile, image, v, h, column


def position_forward(query: Tensor, value: Tensor, embedding: Tensor, output: Tensor) -> None:
    """Compute :func:`lambda_det.layers.position_lambda` and write the result into ``output``.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.
        output: (N, h, v, H, W), of any floating-point dtype; it is overwritten.
    """
    dtype = at_least_float32(common_dtype(query, value, embedding))
    table = _table(embedding, dtype)
    height = query.shape[3]
    for images, tiling in _chunks(query, embedding, dtype):
        products = Products(query[images], embedding, tiling, dtype)
        bands = [Band(group, products) for group in tiling.groups]
        windows = [gather_windows(value[images], group, dtype) for group in tiling.groups]
        queries = gather_tiles(query[images], tiling, _QUERIES, dtype).flatten(2)
        outputs = queries.new_empty(height, products.items, value.shape[2], products.queries)
        for y, taps, rows in _rows(height, embedding):
            for u in range(len(table)):
                products.compute(queries[y], table[u][:, taps])
                for band, window in zip(bands, windows, strict=True):
                    out = outputs[y, band.items]
                    torch.baddbmm(
                        out,
                        window[u][..., band.positions(rows)],
                        band.fill().transpose(1, 2),
                        beta=min(u, 1),
                        out=out,
                    )
        outputs = outputs.view(height, -1, output[images].shape[0], *outputs.shape[2:])
        outputs = outputs.unflatten(-1, (query.shape[1], tiling.width))
        scatter_tiles(outputs, tiling, _VALUES, output[images])


def position_backward(
    gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients with respect to query, value and embedding.

    Args:
        gradient: gradient of the output, (N, h, v, H, W).
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.

    Returns:
        Three tensors, each with the shape and dtype of its argument.
    """
    dtype = at_least_float32(common_dtype(query, value, embedding))
    table = _table(embedding, dtype)
    table_gradient = torch.zeros_like(table.transpose(1, 2).contiguous())  # (u, rh * rw, k)
    query_gradient = torch.empty_like(query)
    value_gradient = torch.empty_like(value)
    height, width = query.shape[3:]
    for images, tiling in _chunks(query, embedding, dtype):
        products = Products(query[images], embedding, tiling, dtype)
        bands = [Band(group, products) for group in tiling.groups]
        windows = [gather_windows(value[images], group, dtype) for group in tiling.groups]
        windows_gradient = [torch.zeros_like(w.transpose(2, 3).contiguous()) for w in windows]
        queries = gather_tiles(query[images], tiling, _QUERIES, dtype)
        queries_gradient = torch.empty_like(queries)
        queries, queries_gradient_2d = queries.flatten(2), queries_gradient.flatten(2)
        gradients = gather_tiles(gradient[images], tiling, _VALUES, dtype)
        gradients = gradients.flatten(4).flatten(1, 2)  # row, item, v, query
        for y, taps, rows in _rows(height, embedding):
            for u in range(len(table)):
                embedded = table[u][:, taps]
                products.compute(queries[y], embedded)
                for band, window, window_gradient in zip(
                    bands, windows, windows_gradient, strict=True
                ):
                    positions, outer = band.positions(rows), gradients[y, band.items]
                    window_gradient[u][:, positions].baddbmm_(
                        band.fill().transpose(1, 2), outer.transpose(1, 2)
                    )
                    band.take_gradient(outer, window[u][..., positions])
                torch.addmm(
                    queries_gradient_2d[y],
                    embedded,
                    products.now.t(),
                    beta=min(u, 1),
                    out=queries_gradient_2d[y],
                )
                table_gradient[u][taps].addmm_(products.now.t(), queries[y].t())
        scatter_tiles(queries_gradient, tiling, _QUERIES, query_gradient[images])
        into = value_gradient[images]
        batch, depth, channels = into.shape[:3]
        summed = table.new_zeros(depth, batch, height, width, channels)
        for band, window_gradient in zip(bands, windows_gradient, strict=True):
            add_windows(window_gradient, band.group, summed)
        into.copy_(summed.permute(1, 0, 4, 2, 3))
    embedding_gradient = table_gradient.unflatten(1, embedding.shape[2:]).permute(3, 0, 1, 2)
    return (
        query_gradient,
        value_gradient,
        torch.empty_like(embedding).copy_(embedding_gradient),
    )


class Products:
    """Memory for A, or its gradient, of one row of the images: (items * queries, taps).

    An item is one tile of one image; a tap is one offset of the window.

    Args:
        query: queries of the images that are processed together, (N, h, k, H, W).
        embedding: (k, u, rh, rw).
        tiling: how the columns are cut into tiles.
        dtype: the dtype to compute in.
    """

    def __init__(self, query: Tensor, embedding: Tensor, tiling: Tiling, dtype) -> None:
        self.batch, self.heads = query.shape[:2]
        self.width = tiling.width
        self.items = len(tiling.tiles) * self.batch
        self.queries = self.heads * tiling.width
        self.embedding_rows, self.embedding_columns = embedding.shape[2:]
        size = self.items * self.queries * self.embedding_rows * self.embedding_columns
        self._memory = torch.empty(size, dtype=dtype, device=query.device)
        self.now = self._memory

    def compute(self, queries: Tensor, embedded: Tensor) -> None:
        """Compute A = queries^T x embedded and overwrite the previous A.

        Args:
            queries: (k, items * queries).
            embedded: (k, taps), columns of the embedding table.
        """
        rows = queries.shape[1]
        out = self._memory[: rows * embedded.shape[1]].view(rows, -1)
        self.now = torch.mm(queries.t(), embedded, out=out)


class Band:
    """Memory for the banded matrices of a group of tiles, reused for every row of the image.

    Args:
        group: the tiles.
        products: A, from which the band is filled and into which its gradient is written.
    """

    def __init__(self, group: Group, products: Products) -> None:
        self.group, self._products = group, products
        self.items = slice(group.places.start * products.batch, group.places.stop * products.batch)
        self._count = len(group.tiles) * products.batch
        self._stride = band_stride(
            (products.embedding_rows, products.embedding_columns), group.window
        )
        # If the image's edge cuts the window, the diagonals of a tile's first and last queries
        # begin before the window or end after it. Views of them then reach outside the matrices,
        # so there must be memory before the first row and after the last one.
        self._front = -(-products.embedding_columns // _ALIGN) * _ALIGN
        size = self._count * products.queries * self._stride + 2 * self._front
        self._band = products.now.new_zeros(size)
        self._gradient: Tensor | None = None
        self._runs = [
            (tiles, shift - products.embedding_columns // 2, self._inside(shift))
            for tiles, shift in group.runs()
        ]

    def _inside(self, shift: int) -> Tensor | None:
        """A mask (column of the tile, 1, column of the embedding): 1 inside the window, 0 outside.

        Returns:
            The mask, or None if all entries are inside.
        """
        columns = self._products.embedding_columns
        column = torch.arange(self._products.width)[:, None] + torch.arange(columns)
        column = column + shift - columns // 2
        inside = (column >= 0) & (column < self.group.window)
        return None if inside.all() else inside[:, None].to(self._band)

    def positions(self, rows: slice) -> slice:
        """The positions of a window that belong to these rows of the image."""
        return slice(rows.start * self.group.window, rows.stop * self.group.window)

    def fill(self) -> Tensor:
        """Copy A into the bands, over the previous row's values.

        Entries off the diagonals are zero from the start and stay so: each row of a band keeps its
        address, however many rows of the window are used.

        Returns:
            The bands (items, queries, rows * window).
        """
        for products, diagonals, inside in self._views(self._band, self._stride):
            if inside is None:
                diagonals.copy_(products)
            else:  # An entry outside a cut window would overwrite a zero of a neighbouring row.
                torch.mul(products, inside, out=diagonals)
        return self._matrices(self._band, self._stride)

    def take_gradient(self, gradients: Tensor, windows: Tensor) -> None:
        """Compute the bands' gradient, gradients^T x windows, and copy A's gradient over A.

        Args:
            gradients: (items, v, queries).
            windows: (items, v, rows * window).
        """
        if self._gradient is None:
            self._gradient = torch.zeros_like(self._band)
        stride = windows.shape[2]
        matrices = self._matrices(self._gradient, stride)
        torch.bmm(gradients.transpose(1, 2), windows, out=matrices)
        for products, diagonals, inside in self._views(self._gradient, stride):
            if inside is None:
                products.copy_(diagonals)
            else:
                torch.mul(diagonals, inside, out=products)

    @property
    def _window_rows(self) -> int:
        return self._products.now.shape[1] // self._products.embedding_columns

    def _matrices(self, memory: Tensor, stride: int) -> Tensor:
        """The matrices (items, queries, rows * window) in ``memory``."""
        queries = self._products.queries
        size = (self._count, queries, self._window_rows * self.group.window)
        return memory.as_strided(size, (queries * stride, stride, 1), self._front)

    def _views(self, memory: Tensor, stride: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """For each run of tiles with the same ``start - left``: A, the diagonals that hold it, and
        the mask of :meth:`_inside`. A and diagonals are views (items * h, column of the tile, row
        of the window, column of the embedding)."""
        products, width = self._products, self._products.width
        shape = (-1, width, self._window_rows, products.embedding_columns)
        per_tile = products.batch * products.heads
        whole = products.now.view(shape)
        for tiles, diagonal, inside in self._runs:
            first = (self.group.first + tiles.start) * per_tile
            run = whole[first : first + (tiles.stop - tiles.start) * per_tile]
            diagonals = memory.as_strided(
                run.shape,
                (width * stride, stride + 1, self.group.window, 1),
                self._front + tiles.start * per_tile * width * stride + diagonal,
            )
            yield run, diagonals, inside


def band_stride(embedding: tuple[int, int], window: int) -> int:
    """The stride, in numbers, from one row of a band to the next.

    It is larger than a row: the numbers in between are unused, see :meth:`Band.fill`.
    """
    rows, columns = embedding
    return -(-(rows * window + columns // 2) // _ALIGN) * _ALIGN


def _chunks(query: Tensor, embedding: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tiling]]:
    """Slices of images that are processed together, with the tiling of their columns."""
    batch, heads, _, _, width = query.shape
    tiling = cut(width, embedding.shape[3], WIDEST_TILE)
    numbers = sum(
        len(group.tiles) * tiling.width * heads * band_stride(embedding.shape[2:], group.window)
        for group in tiling.groups
    )
    step = max(1, BAND_BYTES // (numbers * dtype.itemsize))
    for image in range(0, batch, step):
        yield slice(image, min(batch, image + step)), tiling


def _rows(height: int, embedding: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """For each row of the image: its index, the slice of the table's columns whose offsets stay
    inside the image, and the slice of image rows that its window covers."""
    reach, columns = embedding.shape[2] // 2, embedding.shape[3]
    for y in range(height):
        top, bottom = max(0, y - reach), min(height, y + reach + 1)
        first, last = top - y + reach, bottom - y + reach
        yield y, slice(first * columns, last * columns), slice(top, bottom)


def _table(embedding: Tensor, dtype: torch.dtype) -> Tensor:
    """The embedding as a contiguous table (u, k, rh * rw)."""
    return embedding.transpose(0, 1).to(dtype).contiguous().flatten(2)
