"""An image cut into tiles of columns, each with the window that its queries look into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Neighbouring tiles of one width, whose windows lie alike.

    Attributes:
        first: column of the image where the first tile starts.
        count, width: how many tiles, of how many columns each.
        shift: first column of a tile's window, counted from that of the tile; at most 0.
        window: columns of a tile's window. It ends beyond the image where the image is narrower
            than the embedding.
    """

    first: int
    count: int
    width: int
    shift: int
    window: int

    @property
    def columns(self) -> slice:
        """The columns of all tiles."""
        return slice(self.first, self.first + self.count * self.width)


def cut(width: int, taps: int, widest: int) -> list[Tiles]:
    """Cut an image of ``width`` columns into as few tiles as ``widest`` allows, all but equal.

    Args:
        width: columns of the image.
        taps: columns of the embedding, odd. A window is the tile and ``taps // 2`` columns on
            either side, without what is outside the image, but never narrower than ``taps``.
        widest: most columns of a tile.
    """
    reach = taps // 2
    count = -(-width // widest)
    groups: list[Tiles] = []
    start = 0
    for index in range(count):
        columns = width // count + (index < width % count)
        left = max(0, start - reach)
        window = max(min(width, start + columns + reach) - left, taps)
        tile = Tiles(start, 1, columns, left - start, window)
        last = groups[-1] if groups else None
        if last and (last.width, last.shift, last.window) == (columns, tile.shift, window):
            groups[-1] = Tiles(last.first, last.count + 1, columns, last.shift, window)
        else:
            groups.append(tile)
        start += columns
    return groups


@dataclass(frozen=True)
class Chunk:
    """Tiles of some images that are worked on together.

    What is gathered is in the order (image, tile). Every copy moves runs of a tile's or a window's
    columns and changes the type on the way.
    """

    images: slice
    tiles: Tiles

    @property
    def items(self) -> int:
        """Number of (image, tile)."""
        return (self.images.stop - self.images.start) * self.tiles.count

    def gather(self, x: Tensor, order: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The tiles of ``x`` (N, h, c, H, W), contiguous.

        Args:
            x: of the image's size.
            order: permutation of (image, h, c, row, tile, column).
            dtype: of what is returned.
        """
        return packed(self._tiles_of(x).permute(order), dtype)

    def scatter(self, tiles: Tensor, order: tuple[int, ...], into: Tensor) -> None:
        """Write gathered ``tiles`` of that order back into a tensor of the image's size."""
        target = self._tiles_of(into).permute(order)
        target.copy_(tiles.view(target.shape))

    def _tiles_of(self, x: Tensor) -> Tensor:
        tiles = x[self.images, ..., self.tiles.columns]
        return tiles.unflatten(-1, (self.tiles.count, self.tiles.width))

    def gather_windows(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """(N, u, v, H, W) -> (u, items, v, H * window), zeros beyond the image; contiguous."""
        start = self.tiles.first + self.tiles.shift
        end = start + (self.tiles.count - 1) * self.tiles.width + self.tiles.window
        x = F.pad(value[self.images, ..., start:end], (0, max(0, end - value.shape[-1])))
        x = x.unfold(-1, self.tiles.window, self.tiles.width)
        windows = packed(x.permute(1, 0, 4, 2, 3, 5), dtype)
        return windows.view(value.shape[1], self.items, value.shape[2], -1)

    def add_windows(self, windows: Tensor, into: Tensor) -> None:
        """Add (u, items, H * window, v) to where :meth:`gather_windows` takes windows from.

        Args:
            windows: what is beyond the image is left out.
            into: (N, u, H, W, v).
        """
        depth, height, _, channels = into.shape[1:]
        shape = (depth, -1, self.tiles.count, height, self.tiles.window, channels)
        windows = windows.view(shape).transpose(0, 1)
        for tile in range(self.tiles.count):
            start = self.tiles.first + tile * self.tiles.width + self.tiles.shift
            target = into[self.images, :, :, start : start + self.tiles.window]
            target += windows[:, :, tile, :, : target.shape[3]]


def packed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy, in one pass whatever the type."""
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)


def chunks(batch: int, tiles: list[Tiles], most: dict[Tiles, int]) -> Iterator[Chunk]:
    """Chunks of at most ``most[...]`` (image, tile) each, but of one at least."""
    for group in tiles:
        together = max(1, most[group])
        if together >= group.count:
            step = together // group.count
            for image in range(0, batch, step):
                yield Chunk(slice(image, min(batch, image + step)), group)
            continue
        for first in range(0, group.count, together):
            part = Tiles(
                group.first + first * group.width,
                min(together, group.count - first),
                group.width,
                group.shift,
                group.window,
            )
            for image in range(batch):
                yield Chunk(slice(image, image + 1), part)
