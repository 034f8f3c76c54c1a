"""Generated scenes in which the kind of an object is shown somewhere else in the image.

A scene has grey squares, which are the objects, and markers at some distance from them. The kind of
a square is that of one of the markers; the set (:data:`SETS`) determines which one. The two kinds
have the same number of markers, so that a summary of the whole image does not tell the kind of a
square.

If rows are close, a square or a marker may cover the edge of another in the next row, but never its
middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from lambda_det.errors import InputError

RED, BLUE = (40, 60, 235), (235, 80, 40)  # BGR
_MARKER = (6, 9)  # smallest and largest radius in pixels
_SQUARE = (14, 22)  # smallest and largest side in pixels
_JITTER = 0.18  # largest vertical shift, as a share of a row's height
_LEFT = 0.28  # squares are within this distance of the left edge, as a share of the height


@dataclass(frozen=True)
class Layout:
    """The layout of a scene.

    Attributes:
        rows: number of squares, one in each row. It is even, so that each kind has half of the
            markers.
        side: height of the image in pixels.
        distance: horizontal distance in pixels from the middle of a square to that of its marker.
            None puts the markers at the far side of a square image.

    Raises:
        InputError: a number is out of range.
    """

    rows: int = 4
    side: int = 128
    distance: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 2 or self.rows % 2:
            raise InputError(f"rows {self.rows}: an even number from 2 on is needed")
        least = max(24 * self.rows, 96)
        if self.side < least or self.side % 32:
            raise InputError(
                f"side {self.side}: a multiple of 32 of at least {least} is needed for {self.rows} "
                "rows"
            )
        if self.distance is not None and self.distance < _SQUARE[1]:
            raise InputError(
                f"distance {self.distance}: at least {_SQUARE[1]} pixels are needed, or a "
                "marker would cover its square"
            )


@dataclass(frozen=True)
class Scene:
    """An image and its objects, the squares.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        boxes: (rows, 4) int, x0, y0, x1, y1 of the squares in pixels; x1 and y1 are outside.
        kinds: (rows,) int, 0 or 1.
        markers: (rows, 2) int, x and y of the middle of the marker that shows the square's kind. In
            the set ``control``, where no marker does, it is the marker in the square's row.
    """

    image: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    markers: np.ndarray


def draw_scene(rng: np.random.Generator, name: str, layout: Layout = Layout()) -> Scene:
    """Draw a scene of the set ``name``; it is mirrored with a probability of one half."""
    scene = SETS[name](_Canvas(rng, layout, _width(name, layout)))
    return _mirrored(scene) if rng.random() < 0.5 else scene


def _width(name: str, layout: Layout) -> int:
    """Width of the image in pixels: room for the distance, and a multiple of the largest stride."""
    if layout.distance is None:
        return layout.side
    if name == "sides":
        least = 2 * (layout.distance + 10) + 24
    else:
        least = 4 + round(_LEFT * layout.side) + layout.distance + 10
    return max(layout.side, -(-least // 32) * 32)


class _Canvas:
    """An image during drawing; it starts as grey noise."""

    def __init__(self, rng: np.random.Generator, layout: Layout, width: int) -> None:
        self.rng, self.layout, self.width = rng, layout, width
        blocks = rng.normal(0, 12, (layout.side // 8, width // 8, 3))
        self.image = 127 + blocks.repeat(8, 0).repeat(8, 1)
        self.middles = (np.arange(layout.rows) + 0.5) * layout.side / layout.rows
        self.kinds = rng.permutation([0, 1] * (layout.rows // 2))
        self.boxes: list[tuple[int, int, int, int]] = []

    def height_in(self, row: int) -> int:
        """Draw the y coordinate of something in a row."""
        reach = _JITTER * self.layout.side / self.layout.rows
        return round(self.middles[row] + self.rng.uniform(-reach, reach))

    def square(self, row: int, colour: tuple | None = None, x: int | None = None) -> int:
        """Draw a square, grey if no colour is given; return the x coordinate of its middle."""
        side = int(self.rng.integers(*_SQUARE, endpoint=True))
        free = round(_LEFT * self.layout.side) - side
        left = 4 + int(self.rng.integers(0, free, endpoint=True)) if x is None else x - side // 2
        top = min(max(self.height_in(row) - side // 2, 1), self.layout.side - side - 1)
        grey = self.rng.uniform(190, 240)
        self.image[top : top + side, left : left + side] = (grey,) * 3 if colour is None else colour
        self.boxes.append((left, top, left + side, top + side))
        return left + side // 2

    def marker_x(self, square_x: int, sign: int = 1) -> int:
        """The x coordinate of a square's marker."""
        if self.layout.distance is None:
            return round(self.layout.side * self.rng.uniform(0.86, 0.93))
        return square_x + sign * self.layout.distance

    def marker(self, x: int, row: int, colour: tuple) -> tuple[int, int]:
        """Draw a disc; return its middle (x, y)."""
        y, radius = self.height_in(row), int(self.rng.integers(*_MARKER, endpoint=True))
        cv2.circle(self.image, (x, y), radius, colour, -1)
        return x, y

    def bar(self, row: int, place: int, *, upright: bool) -> None:
        """Draw a dark bar on the square of a row.

        It is at the left, middle or right (``place`` −1, 0, 1) if it is upright, else at the top,
        middle or bottom.
        """
        left, top, right, bottom = self.boxes[row]
        side, width = right - left, 4
        start = (side - width) * (place + 1) // 2
        if upright:
            self.image[top:bottom, left + start : left + start + width] = 40
        else:
            self.image[top + start : top + start + width, left:right] = 40

    def scene(self, kinds: np.ndarray, markers: list[tuple[int, int]]) -> Scene:
        image = self.image.clip(0, 255).astype(np.uint8)
        return Scene(image, np.array(self.boxes), np.asarray(kinds), np.array(markers))


def _colours(kinds: np.ndarray) -> list[tuple[int, int, int]]:
    return [(RED, BLUE)[kind] for kind in kinds]


def _control(canvas: _Canvas) -> Scene:
    """The colour of the square itself is its kind; the colours of the markers are random."""
    shown = canvas.rng.permutation(canvas.kinds)
    places = []
    for row, (own, other) in enumerate(zip(_colours(canvas.kinds), _colours(shown), strict=True)):
        x = canvas.square(row, own)
        places.append(canvas.marker(canvas.marker_x(x), row, other))
    return canvas.scene(canvas.kinds, places)


def _rows(canvas: _Canvas) -> Scene:
    """The kind is the colour of the marker in the square's own row."""
    places = []
    for row, colour in enumerate(_colours(canvas.kinds)):
        x = canvas.square(row)
        places.append(canvas.marker(canvas.marker_x(x), row, colour))
    return canvas.scene(canvas.kinds, places)


def _sides(canvas: _Canvas) -> Scene:
    """Each square has a red and a blue marker, one on each side.

    A bar at the left or right of the square tells which of them is its kind.
    """
    places = []
    for row, kind in enumerate(canvas.kinds):
        x = canvas.square(row, x=canvas.width // 2 + int(canvas.rng.integers(-4, 5)))
        sign = 1 if canvas.rng.random() < 0.5 else -1
        right, wrong = ((RED, BLUE)[k] for k in (kind, 1 - kind))
        distance = canvas.layout.distance or canvas.width // 2 - 14
        places.append(canvas.marker(x + sign * distance, row, right))
        canvas.marker(x - sign * distance, row, wrong)
        canvas.bar(row, sign, upright=True)
    return canvas.scene(canvas.kinds, places)


def _offsets(canvas: _Canvas) -> Scene:
    """The kind is the colour of a marker in the same row or in a neighbouring row.

    A bar at the top, middle or bottom of a square tells that it is the marker of the row above, of
    the same row or of the row below.
    """
    rows = canvas.layout.rows
    drawn = []
    for row, colour in enumerate(_colours(canvas.kinds)):
        x = canvas.square(row)
        drawn.append(canvas.marker(canvas.marker_x(x), row, colour))
    kinds, places = [], []
    for row in range(rows):
        offset = int(canvas.rng.choice([o for o in (-1, 0, 1) if 0 <= row + o < rows]))
        canvas.bar(row, offset, upright=False)
        kinds.append(canvas.kinds[row + offset])
        places.append(drawn[row + offset])
    return canvas.scene(np.array(kinds), places)


def _matches(canvas: _Canvas) -> Scene:
    """The kind is the colour of the marker that is as bright as the square.

    All squares of a scene differ in brightness, and the marker may be in any row.
    """
    rows = canvas.layout.rows
    brightness = canvas.rng.permutation(np.linspace(0.2, 1, rows))
    order = canvas.rng.permutation(rows)  # row of a square -> row of its marker
    places = []
    for row, colour in enumerate(_colours(canvas.kinds)):
        x = canvas.square(row, tuple(brightness[row] * np.array((240, 240, 240))))
        shown = tuple(brightness[row] * np.array(colour))
        places.append(canvas.marker(canvas.marker_x(x), int(order[row]), shown))
    return canvas.scene(canvas.kinds, places)


SETS: dict[str, Callable[[_Canvas], Scene]] = {
    "control": _control, "rows": _rows, "sides": _sides, "offsets": _offsets, "matches": _matches,
}  # fmt: skip
"""Name of a set -> function that draws its scenes; the functions' docstrings explain the sets."""

KINDS = ("red", "blue")
"""Names of the two kinds of objects."""


def _mirrored(scene: Scene) -> Scene:
    width = scene.image.shape[1]
    boxes, markers = scene.boxes.copy(), scene.markers.copy()
    boxes[:, [0, 2]] = width - scene.boxes[:, [2, 0]]
    markers[:, 0] = width - 1 - markers[:, 0]
    return Scene(np.ascontiguousarray(scene.image[:, ::-1]), boxes, scene.kinds, markers)
