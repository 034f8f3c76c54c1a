"""The ``"banded"`` back end: the position lambda by matrix products of PyTorch alone, for a CPU
without the kernels of ``"native"``.

    A[n,h,p,u,d] = sum_k q[n,h,k,p] E[k,u,d]
    y[n,h,v,p] = sum_u sum_d A[n,h,p,u,d] V[n,u,v,p+d]

Each row of the image is cut into tiles of a few columns. All queries of a tile need values from one
window, so that the second sum is a product of a matrix (queries x positions of the window) with V.
The matrix is banded: a query's weights stand one column further right than those of the query to
its left. A view with strides along the diagonals copies A into the band, or the gradient out of it;
the rest stays zero. Sums are taken in at least float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lambda_det.layers.own_backward import position_operator
from lambda_det.layers.precision import at_least_float32, common_dtype

WIDEST_TILE = 14
"""Largest number of columns of a tile. Wider tiles waste more multiplications on the zeros beside
the band; the matrix products of narrower tiles are too small to be fast."""

BAND_BYTES = 4 * 2**20
"""As many images are computed together as their bands stay below this, but at least one."""


def banded(query: Tensor, value: Tensor, embedding: Tensor) -> Tensor:
    """The position lambda by products of banded matrices.

    Args:
        query, value, embedding: as in :func:`lambda_det.layers.position_lambda`.

    Returns:
        (N, h, v, H, W) in the common dtype of query and value, but at least float32, in which the
        sums are taken. Its memory is channels last if the value's is.
    """
    return _banded(query, value, embedding)


class _Images:
    """Some images, cut into tiles, with the memory of their bands.

    Args:
        query: (N, h, k, H, W).
        value: (N, u, v, H, W).
        embedding: (k, u, rh, rw).
    """

    def __init__(self, query: Tensor, value: Tensor, embedding: Tensor) -> None:
        self.dtype = _dtype(query, value, embedding)
        self.batch, self.heads, _, self.height, self.width = query.shape
        self.rows, self.columns = embedding.shape[2:]
        self.count, self.tile, self.window = _tiles(self.width, self.columns)
        items = self.batch * self.count
        # (u, k, rh * rw), (H, items, h * tile, k), (u, items, H * window, v)
        self.table = embedding.transpose(0, 1).to(self.dtype).flatten(2)
        self.queries = self.in_rows(query)
        padding = self.columns // 2, self.window - self.columns // 2 - self.tile
        padded = F.pad(value.to(self.dtype), (padding[0], padding[1] + self._beyond))
        windows = padded.unfold(4, self.window, self.tile).permute(1, 0, 4, 3, 5, 2)
        self.windows = windows.reshape(len(windows), items, -1, value.shape[2])

    @property
    def _beyond(self) -> int:
        """Columns of the last tile that lie outside the image; they are zeros."""
        return self.count * self.tile - self.width

    def in_rows(self, x: Tensor) -> Tensor:
        """(N, h, c, H, W) as (H, items, h * tile, c); an item is one tile of one image."""
        tiles = F.pad(x.to(self.dtype), (0, self._beyond)).unflatten(-1, (self.count, self.tile))
        tiles = tiles.permute(3, 0, 4, 1, 5, 2)
        return tiles.reshape(self.height, -1, self.heads * self.tile, x.shape[2])

    def out_of_rows(self, rows: Tensor) -> Tensor:
        """The reverse of :meth:`in_rows`."""
        tiles = rows.unflatten(2, (self.heads, self.tile)).unflatten(1, (self.batch, self.count))
        return tiles.permute(1, 3, 5, 0, 2, 4).flatten(-2)[..., : self.width]

    def out_of_windows(self, windows: Tensor) -> Tensor:
        """The sum of windows (u, items, H * window, v) at their places: (N, u, v, H, W)."""
        windows = windows.unflatten(2, (self.height, self.window))
        windows = windows.unflatten(1, (self.batch, self.count)).permute(1, 0, 5, 3, 2, 4)
        wide = windows.new_zeros((*windows.shape[:4], (self.count - 1) * self.tile + self.window))
        for tile in range(self.count):
            wide[..., tile * self.tile :][..., : self.window] += windows[..., tile, :]
        return wide[..., self.columns // 2 :][..., : self.width]

    def image_rows(self) -> Iterator[tuple[int, slice, slice]]:
        """For each row of the image: its index, the table's columns whose offsets stay inside the
        image, and the positions of the window that these reach."""
        reach = self.rows // 2
        for y in range(self.height):
            top, bottom = max(0, y - reach), min(self.height, y + reach + 1)
            taps = slice((top - y + reach) * self.columns, (bottom - y + reach) * self.columns)
            yield y, taps, slice(top * self.window, bottom * self.window)

    def new_band(self) -> Tensor:
        """Memory for a band (items, h * tile, rh * window) of every tile, all zeros."""
        size = len(self.windows[0]), self.heads * self.tile, self.rows * self.window
        return self.windows.new_zeros(size)

    def diagonals(self, band: Tensor, taps: slice) -> Tensor:
        """What of a band is not always zero: (items * h, tile, rows of the offsets, rw).

        The offsets of a row at the image's edge fill the first columns of a band.
        """
        stride = self.rows * self.window
        rows = (taps.stop - taps.start) // self.columns
        return band.as_strided(
            (len(band) * self.heads, self.tile, rows, self.columns),
            (self.tile * stride, stride + 1, self.window, 1),
        )


def _dtype(*tensors: Tensor) -> torch.dtype:
    """The type to compute in."""
    return at_least_float32(common_dtype(*tensors))


def _tiles(width: int, columns: int) -> tuple[int, int, int]:
    """Number of tiles in a row, and columns of a tile and of its window."""
    count = -(-width // WIDEST_TILE)
    tile = -(-width // count)
    return -(-width // tile), tile, tile + columns - 1


def _together(query: Tensor, embedding: Tensor, dtype: torch.dtype) -> Iterator[slice]:
    """Slices of the images that are computed together."""
    count, tile, window = _tiles(query.shape[4], embedding.shape[3])
    numbers = count * tile * query.shape[1] * embedding.shape[2] * window
    step = max(1, BAND_BYTES // (numbers * dtype.itemsize))
    for first in range(0, len(query), step):
        yield slice(first, first + step)


def _forward(query: Tensor, value: Tensor, embedding: Tensor, output: Tensor) -> None:
    for some in _together(query, embedding, _dtype(query, value, embedding)):
        images = _Images(query[some], value[some], embedding)
        band = images.new_band()
        found = band.new_empty((*images.queries.shape[:3], value.shape[2]))
        for y, taps, positions in images.image_rows():
            part = band[..., : positions.stop - positions.start]
            diagonals = images.diagonals(band, taps)
            for u, table in enumerate(images.table):
                diagonals.copy_((images.queries[y] @ table[:, taps]).view(diagonals.shape))
                window = images.windows[u][:, positions]
                torch.baddbmm(found[y], part, window, beta=min(u, 1), out=found[y])
        output[some] = images.out_of_rows(found)


def _backward(
    gradient: Tensor, query: Tensor, value: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    query_gradient, value_gradient = torch.zeros_like(query), torch.zeros_like(value)
    dtype = _dtype(query, value, embedding)
    of_table = torch.zeros_like(embedding.transpose(0, 1).flatten(2), dtype=dtype)
    for some in _together(query, embedding, dtype):
        images = _Images(query[some], value[some], embedding)
        band, of_band = images.new_band(), images.new_band()
        gradients = images.in_rows(gradient[some])
        of_queries, of_windows = torch.zeros_like(images.queries), torch.zeros_like(images.windows)
        for y, taps, positions in images.image_rows():
            count = positions.stop - positions.start
            queries, diagonals = images.queries[y], images.diagonals(band, taps)
            for u, table in enumerate(images.table):
                diagonals.copy_((queries @ table[:, taps]).view(diagonals.shape))
                of_windows[u][:, positions].baddbmm_(band[..., :count].mT, gradients[y])
                window = images.windows[u][:, positions]
                torch.bmm(gradients[y], window.mT, out=of_band[..., :count])
                weights = images.diagonals(of_band, taps).reshape(*queries.shape[:2], -1)
                of_queries[y] += weights @ table[:, taps].t()
                of_table[u][:, taps] += queries.flatten(0, 1).t() @ weights.flatten(0, 1)
        query_gradient[some] = images.out_of_rows(of_queries)
        value_gradient[some] = images.out_of_windows(of_windows)
    embedding_gradient = torch.empty_like(embedding)
    embedding_gradient.copy_(of_table.view(embedding.transpose(0, 1).shape).transpose(0, 1))
    return query_gradient, value_gradient, embedding_gradient


_banded = position_operator("banded", _forward, _backward)
