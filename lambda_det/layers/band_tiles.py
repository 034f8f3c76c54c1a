"""The columns of an image cut into tiles, each with the window that its queries look into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Some columns of an image.

    Attributes:
        start: its first column.
        columns: how many of its columns lie inside the image; the last tile may have fewer.
        left: column of the image where its window starts.
    """

    start: int
    columns: int
    left: int


@dataclass(frozen=True)
class Group:
    """Tiles whose windows are of one width.

    Attributes:
        first: place of its first tile in :attr:`Tiling.tiles`.
        tiles: its tiles; those whose windows start as far to the left of them stand together.
        window: columns of a window. It may end beyond the image, where there are zeros.
    """

    first: int
    tiles: tuple[Tile, ...]
    window: int

    @property
    def places(self) -> slice:
        """Where in :attr:`Tiling.tiles`."""
        return slice(self.first, self.first + len(self.tiles))

    def runs(self) -> Iterator[tuple[slice, int]]:
        """Places in the group of tiles whose windows lie alike, and ``start - left`` of these."""
        begin = 0
        for place in range(1, len(self.tiles) + 1):
            shift = self.tiles[begin].start - self.tiles[begin].left
            if (
                place == len(self.tiles)
                or self.tiles[place].start - self.tiles[place].left != shift
            ):
                yield slice(begin, place), shift
                begin = place


@dataclass(frozen=True)
class Tiling:
    """All tiles of an image, of one width, by the width of their windows.

    Attributes:
        width: columns of a tile.
        groups: of tiles.
    """

    width: int
    groups: tuple[Group, ...]

    @property
    def tiles(self) -> list[Tile]:
        """The tiles in the order in which the groups hold them."""
        return [tile for group in self.groups for tile in group.tiles]


@lru_cache(maxsize=256)
def cut(width: int, taps: int, widest: int) -> Tiling:
    """Cut an image into as few tiles as ``widest`` allows.

    Args:
        width: columns of the image.
        taps: columns of the embedding, odd. A window is the tile and ``taps // 2`` columns on
            either side, without what is outside the image, but never narrower than ``taps``.
        widest: most columns of a tile.
    """
    reach = taps // 2
    columns = -(-width // -(-width // widest))
    by_window: dict[int, list[Tile]] = {}
    for start in range(0, width, columns):
        left = max(0, start - reach)
        right = start + columns + reach
        # One that ends at the image's edge is as wide as one that begins there, for one group.
        window = max(taps, min(right, -(-width // columns) * columns) - left)
        tile = Tile(start, min(columns, width - start), left)
        by_window.setdefault(window, []).append(tile)
    groups: list[Group] = []
    first = 0
    for window, tiles in by_window.items():
        groups.append(Group(first, tuple(tiles), window))
        first += len(tiles)
    return Tiling(columns, tuple(groups))


def gather_tiles(x: Tensor, tiling: Tiling, order: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tiles of ``x`` (N, h, c, H, W); zeros where one ends beyond the image.

    Args:
        order: permutation of (tile, image, h, c, row, column).
        dtype: of what is returned.
    """
    tiles = tiling.tiles
    shape = (len(tiles), *x.shape[:-1], tiling.width)
    make = torch.empty if x.shape[-1] == len(tiles) * tiling.width else torch.zeros
    gathered = make([shape[axis] for axis in order], dtype=dtype, device=x.device)
    for inside, columns in _tile_views(gathered, x, tiling, order):
        inside.copy_(columns)
    return gathered


def scatter_tiles(tiles: Tensor, tiling: Tiling, order: tuple[int, ...], into: Tensor) -> None:
    """Write gathered ``tiles`` of that order back into a tensor of the image's size."""
    for inside, columns in _tile_views(tiles, into, tiling, order):
        columns.copy_(inside)


def _tile_views(
    gathered: Tensor, x: Tensor, tiling: Tiling, order: tuple[int, ...]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of gathered tiles and of the image that hold the same, neighbouring tiles together."""
    gathered = gathered.permute([order.index(axis) for axis in range(len(order))])
    tiles = tiling.tiles
    begin = 0
    for place in range(1, len(tiles) + 1):
        if place < len(tiles) and tiles[place].start == tiles[place - 1].start + tiling.width:
            continue
        yield from _run_views(gathered[begin:place], x, tiles[begin:place], tiling.width)
        begin = place


def _run_views(
    gathered: Tensor, x: Tensor, tiles: list[Tile], width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    whole = [tile for tile in tiles if tile.columns == width]
    if whole:
        columns = x[..., whole[0].start : whole[-1].start + width]
        columns = columns.unflatten(-1, (len(whole), width)).movedim(-2, 0)
        yield gathered[: len(whole)], columns
    if len(whole) < len(tiles):
        last = tiles[-1]
        yield gathered[-1, ..., : last.columns], x[..., last.start :]


def gather_windows(value: Tensor, group: Group, dtype: torch.dtype) -> Tensor:
    """The windows of a group out of (N, u, v, H, W): (u, tiles * N, v, H * window)."""
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
    """Add (u, tiles * N, H * window, v) to where windows come from; what is beyond the image is
    left out.

    Args:
        into: (u, N, H, W, v).
    """
    depth, batch, height, _, channels = into.shape
    windows = windows.view(depth, len(group.tiles), batch, height, group.window, channels)
    for place, tile in enumerate(group.tiles):
        target = into[..., tile.left : tile.left + group.window, :]
        target += windows[:, place, ..., : target.shape[-2], :]
