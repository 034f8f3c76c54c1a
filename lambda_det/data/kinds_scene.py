"""One generated picture whose objects have a kind as well as a shape, for comparing backbones.

A picture holds two crosses of one colour, in opposite corners, and other shapes away from them. A
colour is warm or cool. A class is a shape and a kind, ``warm`` or ``cool``. A cross is of the kind
of its own colour. For the other shapes two sets give the same pictures two sorts of labels:

- ``"own"``: the kind is that of the object's own colour, which is to be seen in its box.
- ``"partner"``: the kind is that of the crosses, somewhere else in the picture. The object's own
  tone is drawn independently of it; its hue within the tone is not quite, because the colours of a
  picture keep a distance from each other.

The pictures of both are equal to the last pixel: what differs between two models' results on the
two sets is what they make of the far-away partners.
"""

from __future__ import annotations

import cv2
import numpy as np

from lambda_det.data.shapes_scene import (
    CLASS_NAMES,
    SceneObject,
    draw_areas,
    paint,
    place,
    rasterize,
)
from lambda_det.data.textures import draw_ground

CUES = ("own", "partner")
KINDS = ("warm", "cool")
SHAPES = (*CLASS_NAMES, "cross")
KIND_CLASS_NAMES = tuple(f"{kind}_{shape}" for shape in SHAPES for kind in KINDS)
"""Class names, shape by shape, both kinds of each."""

_CROSS = SHAPES.index("cross")
_HUES = {"warm": 12, "cool": 108}  # in OpenCV's degrees
_HUE_SPREAD = 20
_CROSS_AREA = (600.0, 900.0)  # pixels
_ARM = 0.36  # width of a cross's arms in its own
_CLEARANCE = 8  # pixels around a cross
_CORNER = 4  # pixels that a cross may stand off its corner
_MARGIN = 3
_STROKES = (8, 16)  # least and most


def draw_kinds_scene(
    rng: np.random.Generator, height: int, width: int, *, num_objects: int, cue: str
) -> tuple[np.ndarray, list[SceneObject]]:
    """Draw one picture.

    Args:
        rng: the only source of randomness; ``cue`` does not change what is drawn from it.
        height, width: size in pixels, at least 120 each.
        num_objects: objects wanted beside the crosses; one without a place is left out.
        cue: ``"own"`` or ``"partner"``.

    Returns:
        The BGR image (H, W, 3) uint8, and its objects in drawing order, the crosses first; their
        ``class_index`` is one into :data:`KIND_CLASS_NAMES`.
    """
    image = draw_ground(rng, height, width)
    colours = [image.reshape(-1, 3).mean(axis=0)]
    _add_clutter(rng, image)
    objects: list[SceneObject] = []
    kinds: list[int] = []

    def add(new: SceneObject, kind: int) -> None:
        for other in objects:
            other.mask &= ~new.mask
        hues = _HUES[KINDS[kind]] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD, size=24)
        paint(rng, image, new, colours, hues)
        objects.append(new)
        kinds.append(kind)

    kind_of_crosses = int(rng.integers(len(KINDS)))
    falling = bool(rng.random() < 0.5)  # the diagonal on whose ends they stand
    for low in (False, True):
        add(_cross(rng, height, width, low == falling, low), kind_of_crosses)
    for area in draw_areas(rng, num_objects, height, width):
        new = place(rng, height, width, area, objects)
        if new is not None:
            add(new, int(rng.integers(len(KINDS))))
    for shape, kind in zip(objects, kinds, strict=True):
        shape.class_index = shape.class_index * len(KINDS) + (
            kind if cue == "own" else kind_of_crosses
        )
    return image, objects


def _cross(
    rng: np.random.Generator, height: int, width: int, right: bool, low: bool
) -> SceneObject:
    """An upright cross near one of the four corners."""
    short, long = _ARM / 2, 0.5
    quarter = np.array([(short, long), (short, short), (long, short)])
    mirrored = quarter[::-1]
    outline = np.concatenate([quarter, mirrored * (1, -1), quarter * (-1, -1), mirrored * (-1, 1)])
    area = np.exp(rng.uniform(*np.log(_CROSS_AREA)))
    outline *= np.sqrt(area / cv2.contourArea(outline.astype(np.float32)))
    offset = outline.max() + _MARGIN + rng.uniform(0, _CORNER, size=2)
    centre = np.where((right, low), (width, height) - offset, offset)
    polygon = np.round(outline + centre, 2)
    mask = rasterize(polygon, height, width)
    flat = polygon.reshape(-1).tolist()
    return SceneObject(_CROSS, mask, int(mask.sum()), flat, clearance=_CLEARANCE)


def _add_clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    """Strokes and specks of any colour that belong to no object."""
    height, width = image.shape[:2]
    for _ in range(rng.integers(*_STROKES, endpoint=True)):
        start = rng.uniform((0, 0), (width, height))
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 40)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        colour = [int(c) for c in rng.integers(15, 245, size=3)]
        points = [tuple(round(c) for c in point) for point in (start, end)]
        cv2.line(image, *points, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
