"""Cuts the columns of an image into tiles, each with the window that its queries need."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Neighbouring columns of an image, and where their window starts.

    Attributes:
        start: first column of the tile. The last tile may reach beyond the image.
        left: column of the image where its window starts.
    """

    start: int
    left: int


@dataclass(frozen=True)
class Group:
    """Tiles whose windows have the same width.

    Attributes:
        first: index of its first tile in :attr:`Tiling.tiles`.
        tiles: its tiles; tiles with the same distance ``start - left`` follow one another.
        window: number of columns of a window. A window may end beyond the image; the columns
            outside are zeros.
    """

    first: int
    tiles: tuple[Tile, ...]
    window: int

    @property
    def places(self) -> slice:
        """The indices of the group's tiles in :attr:`Tiling.tiles`."""
        return slice(self.first, self.first + len(self.tiles))

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Runs of tiles with the same ``start - left``: their indices in the group, and that
        distance in columns."""
        begin = 0
        for shift, run in itertools.groupby(self.tiles, lambda tile: tile.start - tile.left):
            end = begin + len(list(run))
            yield slice(begin, end), shift
            begin = end


@dataclass(frozen=True)
class Tiling:
    """All tiles of an image, grouped by the width of their windows.

    Attributes:
        width: number of columns of every tile.
        groups: the groups; each tile is in one of them.
    """

    width: int
    groups: tuple[Group, ...]

    @property
    def tiles(self) -> list[Tile]:
        """The tiles in the order in which the groups hold them."""
        return [tile for group in self.groups for tile in group.tiles]

    @property
    def order(self) -> list[int]:
        """The index in :attr:`tiles` -> the index among the tiles from left to right."""
        return [tile.start // self.width for tile in self.tiles]


@lru_cache(maxsize=256)
def cut(width: int, taps: int, widest: int) -> Tiling:
    """Cut an image into as few tiles as ``widest`` allows.

    Args:
        width: number of columns of the image.
        taps: number of columns of the embedding, odd. A window holds the tile and ``taps // 2``
            columns on either side, without columns outside the image, but at least ``taps``.
        widest: largest number of columns of a tile.
    """
    reach = taps // 2
    columns = -(-width // -(-width // widest))
    by_window: dict[int, list[Tile]] = {}
    for start in range(0, width, columns):
        left = max(0, start - reach)
        right = start + columns + reach
        # The last window may end beyond the image: it is then as wide as the first one, which
        # begins at the image's edge, and both are in one group.
        window = max(taps, min(right, -(-width // columns) * columns) - left)
        by_window.setdefault(window, []).append(Tile(start, left))
    groups: list[Group] = []
    first = 0
    for window, tiles in by_window.items():
        groups.append(Group(first, tuple(tiles), window))
        first += len(tiles)
    return Tiling(columns, tuple(groups))


def gather_tiles(x: Tensor, tiling: Tiling, order: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Copy the tiles of ``x`` (N, h, c, H, W); columns beyond the image are zeros.

    Args:
        x: queries, values or gradients of all images.
        tiling: the tiles.
        order: order of the axes of the result, a permutation of the axes (tile, image, h, c, row,
            column).
        dtype: dtype of the result.
    """
    x = F.pad(x, (0, -x.shape[-1] % tiling.width)).unflatten(-1, (-1, tiling.width))
    gathered = x.movedim(-2, 0)[tiling.order].permute(order)
    return gathered.to(dtype).contiguous()


def scatter_tiles(tiles: Tensor, tiling: Tiling, order: tuple[int, ...], into: Tensor) -> None:
    """Write ``tiles``, laid out as :func:`gather_tiles` does, into ``into`` (N, h, c, H, W)."""
    tiles = tiles.permute([order.index(axis) for axis in range(len(order))])
    from_left = torch.empty_like(tiles)
    from_left[tiling.order] = tiles
    into.copy_(from_left.movedim(0, -2).flatten(-2)[..., : into.shape[-1]])


def gather_windows(value: Tensor, group: Group, dtype: torch.dtype) -> Tensor:
    """Copy the windows of a group from ``value`` (N, u, v, H, W).

    Returns:
        (u, tiles * N, v, H * window).
    """
    batch, depth, channels, height, width = value.shape
    shape = (depth, len(group.tiles), batch, channels, height, group.window)
    is_inside = all(tile.left + group.window <= width for tile in group.tiles)
    make = torch.empty if is_inside else torch.zeros
    windows = make(shape, dtype=dtype, device=value.device)
    for place, tile in enumerate(group.tiles):
        columns = value[..., tile.left : tile.left + group.window].transpose(0, 1)
        windows[:, place, ..., : columns.shape[-1]] = columns
    return windows.view(depth, len(group.tiles) * batch, channels, height * group.window)


def add_windows(windows: Tensor, group: Group, into: Tensor) -> None:
    """Add windows to the columns of the image that they cover; columns outside it are dropped.

    Args:
        windows: (u, tiles * N, H * window, v).
        group: the tiles of these windows.
        into: (u, N, H, W, v), changed in place.
    """
    depth, batch, height, _, channels = into.shape
    windows = windows.view(depth, len(group.tiles), batch, height, group.window, channels)
    for place, tile in enumerate(group.tiles):
        target = into[..., tile.left : tile.left + group.window, :]
        target += windows[:, place, ..., : target.shape[-2], :]
