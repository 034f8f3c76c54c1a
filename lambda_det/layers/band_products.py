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

from lambda_det.layers.band_tiles import Chunk, Tiles, chunks, cut, packed
from lambda_det.layers.precision import at_least_float32, common_dtype

WIDEST_TILE = 14
"""Columns. Wider tiles spend more on the zeros beside the band; with narrower ones the products
are too small to be fast."""

BAND_BYTES = 4 * 2**20
"""Most memory for the band of a chunk, where one tile of one image needs no more."""

_ALIGN = 16
_QUERIES = (3, 2, 0, 4, 1, 5)  # row, k, image, tile, h, column
_VALUES = (3, 0, 4, 2, 1, 5)  # row, image, tile, v, h, column


def position_forward(query: Tensor, value: Tensor, embedding: Tensor, output: Tensor) -> None:
    """Fill ``output`` (N, h, v, H, W), of any floating type, with the position lambdas applied.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.
    """
    dtype = _dtype(query, value, embedding)
    table = _table(embedding, dtype)
    for chunk in _chunks(query, embedding, dtype):
        band = Band(chunk, query.shape[1], embedding, dtype)
        windows = chunk.gather_windows(value, dtype)
        queries = chunk.gather(query, _QUERIES, dtype).flatten(2)
        outputs = queries.new_empty(
            query.shape[3], chunk.items, value.shape[2], query.shape[1] * chunk.tiles.width
        )
        for y, taps, positions in _rows(query.shape[3], embedding, chunk.tiles):
            for u in range(len(table)):
                matrix = band.of(band.products(queries[y], table[u][:, taps]))
                torch.baddbmm(
                    outputs[y],
                    windows[u][..., positions],
                    matrix.transpose(1, 2),
                    beta=min(u, 1),
                    out=outputs[y],
                )
        chunk.scatter(outputs, _VALUES, output)


def position_backward(
    gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, value and embedding, each in its own type.

    Args:
        gradient: of the output, (N, h, v, H, W).
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.
    """
    dtype = _dtype(query, value, embedding)
    table = _table(embedding, dtype)
    table_gradient = torch.zeros_like(table.transpose(1, 2).contiguous())  # (u, rh * rw, k)
    query_gradient = torch.empty_like(query)
    batch, depth, channels, height, width = value.shape
    value_gradient = torch.zeros(
        (batch, depth, height, width, channels), dtype=dtype, device=value.device
    )
    for chunk in _chunks(query, embedding, dtype):
        band = Band(chunk, query.shape[1], embedding, dtype)
        windows = chunk.gather_windows(value, dtype)
        windows_gradient = torch.zeros_like(windows.transpose(2, 3).contiguous())
        queries = chunk.gather(query, _QUERIES, dtype).flatten(2)
        queries_gradient = torch.empty_like(queries)
        gradients = chunk.gather(gradient, _VALUES, dtype).flatten(4).flatten(1, 2)
        for y, taps, positions in _rows(query.shape[3], embedding, chunk.tiles):
            for u in range(len(table)):
                embedded = table[u][:, taps]
                matrix = band.of(band.products(queries[y], embedded))
                windows_gradient[u][:, positions].baddbmm_(
                    matrix.transpose(1, 2), gradients[y].transpose(1, 2)
                )
                products = band.gradient_of(gradients[y], windows[u][..., positions])
                torch.addmm(
                    queries_gradient[y],
                    embedded,
                    products.t(),
                    beta=min(u, 1),
                    out=queries_gradient[y],
                )
                table_gradient[u][taps].addmm_(products.t(), queries[y].t())
        chunk.scatter(queries_gradient, _QUERIES, query_gradient)
        chunk.add_windows(windows_gradient, value_gradient)
    rows, columns = embedding.shape[2:]
    embedding_gradient = table_gradient.unflatten(1, (rows, columns)).permute(3, 0, 1, 2)
    return (
        query_gradient,
        torch.empty_like(value).copy_(value_gradient.permute(0, 1, 4, 2, 3)),
        torch.empty_like(embedding).copy_(embedding_gradient),
    )


class Band:
    """Memory for the band of a chunk, made once and used for every row of the image.

    Args:
        chunk: tiles and images.
        heads: h.
        embedding: (k, u, rh, rw).
        dtype: to compute in.
    """

    def __init__(self, chunk: Chunk, heads: int, embedding: Tensor, dtype: torch.dtype) -> None:
        self._tiles, self._items, self._heads = chunk.tiles, chunk.items, heads
        self._queries = heads * chunk.tiles.width
        self._columns = embedding.shape[3]
        self._stride = band_stride(embedding, chunk.tiles)
        # The diagonals of a tile's first and last queries begin before and end behind the window
        # where that is cut; in front of the first row and behind the last there must be memory.
        self._front = -(-self._columns // _ALIGN) * _ALIGN
        size = chunk.items * self._queries * self._stride + 2 * self._front
        make = {"dtype": dtype, "device": embedding.device}
        self._band = torch.zeros(size, **make)
        self._band_gradient: Tensor | None = None
        self._products = torch.empty(
            chunk.items * self._queries * embedding.shape[2] * self._columns, **make
        )
        start = torch.arange(chunk.tiles.width)[:, None] + self._first_diagonal()
        column = start + torch.arange(self._columns)
        inside = (column >= 0) & (column < chunk.tiles.window)
        self._inside = None if inside.all() else inside[:, None].to(**make)

    def _first_diagonal(self) -> int:
        """Column of its window that a tile's first query sees with the embedding's first column."""
        return -(self._columns // 2) - self._tiles.shift

    def products(self, queries: Tensor, embedded: Tensor) -> Tensor:
        """A = (k, items * queries)^T x (k, taps), in memory that the next call uses again."""
        out = self._products[: queries.shape[1] * embedded.shape[1]]
        return torch.mm(queries.t(), embedded, out=out.view(queries.shape[1], -1))

    def of(self, products: Tensor) -> Tensor:
        """The band (items, queries, rows * window) of A; the next call uses its memory again.

        What is not on the diagonals is zero from the beginning: rows of the band have a place of
        their own, however many rows of the window are used.
        """
        rows = products.shape[1] // self._columns
        diagonals = self._diagonals(self._band, rows, self._stride)
        products = products.view(diagonals.shape)
        if self._inside is None:
            diagonals.copy_(products)
        else:  # A cut window: what would leave it lands beside the band of a neighbouring row
            torch.mul(products, self._inside, out=diagonals)
        size = (self._items, self._queries, rows * self._tiles.window)
        strides = (self._queries * self._stride, self._stride, 1)
        return self._band.as_strided(size, strides, self._front)

    def gradient_of(self, gradients: Tensor, windows: Tensor) -> Tensor:
        """Gradient of A (items * queries, taps), where that of the band is gradients^T x windows.

        Args:
            gradients: (items, v, queries).
            windows: (items, v, rows * window).
        """
        if self._band_gradient is None:
            self._band_gradient = torch.zeros_like(self._band)
        size = (self._items, self._queries, windows.shape[2])
        strides = (size[1] * size[2], size[2], 1)
        matrix = self._band_gradient.as_strided(size, strides, self._front)
        torch.bmm(gradients.transpose(1, 2), windows, out=matrix)
        rows = size[2] // self._tiles.window
        diagonals = self._diagonals(self._band_gradient, rows, size[2])
        products = self._products[: diagonals.numel()]
        if self._inside is None:
            products.view(diagonals.shape).copy_(diagonals)
        else:
            torch.mul(diagonals, self._inside, out=products.view(diagonals.shape))
        return products.view(self._items * self._queries, -1)

    def _diagonals(self, band: Tensor, rows: int, stride: int) -> Tensor:
        """(items * h, column of the tile, row of the window, column of the embedding)."""
        width = self._tiles.width
        return band.as_strided(
            (self._items * self._heads, width, rows, self._columns),
            (width * stride, stride + 1, self._tiles.window, 1),
            self._front + self._first_diagonal(),
        )


def band_stride(embedding: Tensor, tiles: Tiles) -> int:
    """Elements from one row of a band to the next: some are free in between, see ``Band.of``."""
    rows, columns = embedding.shape[2:]
    return -(-(rows * tiles.window + columns // 2) // _ALIGN) * _ALIGN


def _chunks(query: Tensor, embedding: Tensor, dtype: torch.dtype) -> Iterator[Chunk]:
    groups = cut(query.shape[4], embedding.shape[3], WIDEST_TILE)
    row_bytes = {tiles: band_stride(embedding, tiles) * dtype.itemsize for tiles in groups}
    most = {
        tiles: BAND_BYTES // (query.shape[1] * tiles.width * row_bytes[tiles]) for tiles in groups
    }
    return chunks(query.shape[0], groups, most)


def _rows(height: int, embedding: Tensor, tiles: Tiles) -> Iterator[tuple[int, slice, slice]]:
    """For each row of the image: its number, columns of the table, positions of the window."""
    reach, columns = embedding.shape[2] // 2, embedding.shape[3]
    for y in range(height):
        top, bottom = max(0, y - reach), min(height, y + reach + 1)
        first, last = top - y + reach, bottom - y + reach
        yield (
            y,
            slice(first * columns, last * columns),
            slice(top * tiles.window, bottom * tiles.window),
        )


def _dtype(*tensors: Tensor) -> torch.dtype:
    return at_least_float32(common_dtype(*tensors))


def _table(embedding: Tensor, dtype: torch.dtype) -> Tensor:
    """(u, k, rh * rw), contiguous."""
    return packed(embedding.transpose(0, 1), dtype).flatten(2)
