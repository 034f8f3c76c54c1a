"""The position lambda in swapped order, as products of banded matrices, and its gradients.

    A[n,h,p,u,d] = sum_k q[n,h,k,p] E[k,u,d]
    y[n,h,v,p] = sum_u sum_d A[n,h,p,u,d] V[n,u,v,p+d]

One row of the image is worked on at a time, cut into tiles of some columns. All queries of a tile,
of all heads, look into one window: the second sum is a product of a matrix (queries x positions of
the window) with V. That matrix is a band, each row the one above shifted by one. A view with
strides along the diagonals moves A into the band, or the gradient out of it; the rest of the
matrix stays zero. Rows of the window outside the image are left out, and so are columns, where the
window stays as wide as the embedding.

Nothing here knows of autograd. Sums are taken in at least float32, products of halves are exact
there.
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
"""Columns. Wider tiles spend more on the zeros beside the band; with narrower ones the products
are too small to be fast."""

BAND_BYTES = 4 * 2**20
"""Most memory for bands: as many images are worked on together as need no more, but one at least,
whose row needs W * h * rh * (about rw + 14) numbers."""

_ALIGN = 16
_QUERIES = (4, 3, 0, 1, 2, 5)  # row, k, tile, image, h, column
_VALUES = (4, 0, 1, 3, 2, 5)  # row, tile, image, v, h, column


def position_forward(query: Tensor, value: Tensor, embedding: Tensor, output: Tensor) -> None:
    """Fill ``output`` (N, h, v, H, W), of any floating type, with the position lambdas applied.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.
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
    """Gradients of query, value and embedding, each in its own type.

    Args:
        gradient: of the output, (N, h, v, H, W).
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.
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
    """Memory for A, or its gradient, of one row of the images; (items * queries, taps).

    Args:
        query: of the images that are worked on, (N, h, k, H, W).
        embedding: (k, u, rh, rw).
        tiling: of the columns. An item is a tile of an image.
        dtype: to compute in.
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
        """A = (k, items * queries)^T x (k, taps), in place of the one before."""
        rows = queries.shape[1]
        out = self._memory[: rows * embedded.shape[1]].view(rows, -1)
        self.now = torch.mm(queries.t(), embedded, out=out)


class Band:
    """Memory for the bands of a group of tiles, made once and used for every row of the image.

    Args:
        group: of tiles.
        products: A, which the band is filled from and which its gradient goes to.
    """

    def __init__(self, group: Group, products: Products) -> None:
        self.group, self._products = group, products
        self.items = slice(group.places.start * products.batch, group.places.stop * products.batch)
        self._count = len(group.tiles) * products.batch
        self._stride = band_stride(
            (products.embedding_rows, products.embedding_columns), group.window
        )
        # The diagonals of a tile's first and last queries begin before and end behind the window
        # where that is cut; in front of the first row and behind the last there must be memory.
        self._front = -(-products.embedding_columns // _ALIGN) * _ALIGN
        size = self._count * products.queries * self._stride + 2 * self._front
        self._band = products.now.new_zeros(size)
        self._gradient: Tensor | None = None
        self._runs = [
            (tiles, shift - products.embedding_columns // 2, self._inside(shift))
            for tiles, shift in group.runs()
        ]

    def _inside(self, shift: int) -> Tensor | None:
        """(column of the tile, 1, column of the embedding): 1 inside the window, 0 outside; None
        where all is inside."""
        columns = self._products.embedding_columns
        column = torch.arange(self._products.width)[:, None] + torch.arange(columns)
        column = column + shift - columns // 2
        inside = (column >= 0) & (column < self.group.window)
        return None if inside.all() else inside[:, None].to(self._band)

    def positions(self, rows: slice) -> slice:
        """Positions of a window for rows of the image."""
        return slice(rows.start * self.group.window, rows.stop * self.group.window)

    def fill(self) -> Tensor:
        """The bands (items, queries, rows * window) of A, in place of those before.

        What is not on the diagonals is zero from the beginning: rows of the band have a place of
        their own, however many rows of the window are used.
        """
        for products, diagonals, inside in self._views(self._band, self._stride):
            if inside is None:
                diagonals.copy_(products)
            else:  # What would leave a cut window lands beside the band in a neighbouring row
                torch.mul(products, inside, out=diagonals)
        return self._matrices(self._band, self._stride)

    def take_gradient(self, gradients: Tensor, windows: Tensor) -> None:
        """Put the gradient of A in its place, where that of the bands is gradients^T x windows.

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
        """(items, queries, rows * window)."""
        queries = self._products.queries
        size = (self._count, queries, self._window_rows * self.group.window)
        return memory.as_strided(size, (queries * stride, stride, 1), self._front)

    def _views(self, memory: Tensor, stride: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """For tiles whose windows lie alike: A and the diagonals that it belongs on, both
        (items * h, column of the tile, row of the window, column of the embedding); what of it is
        inside the window."""
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
    """Numbers from one row of a band to the next: some are free in between, see ``Band.fill``."""
    rows, columns = embedding
    return -(-(rows * window + columns // 2) // _ALIGN) * _ALIGN


def _chunks(query: Tensor, embedding: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tiling]]:
    """Images that are worked on together, and the tiling of their columns."""
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
    """For each row of the image: its number, columns of the table, rows of the window."""
    reach, columns = embedding.shape[2] // 2, embedding.shape[3]
    for y in range(height):
        top, bottom = max(0, y - reach), min(height, y + reach + 1)
        first, last = top - y + reach, bottom - y + reach
        yield y, slice(first * columns, last * columns), slice(top, bottom)


def _table(embedding: Tensor, dtype: torch.dtype) -> Tensor:
    """(u, k, rh * rw), contiguous."""
    return embedding.transpose(0, 1).to(dtype).contiguous().flatten(2)
