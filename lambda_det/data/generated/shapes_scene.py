"""Drawing of one generated image: overlapping textured shapes on a textured background.

Each class has its own range of hues, so that a detector learns the dataset in a few minutes on a
CPU. An object differs in colour from the background and from the other objects. Its black or white
rim shows whether it is complete or partly covered. Objects overlap only with objects of other
classes, and enough of each stays visible to recognise it. The masks are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pycocotools.mask as mask_util

CLASS_NAMES = ("disc", "box", "triangle", "ring")

# Areas in pixels before occlusion; each range lies within one of COCO's (limits 32^2 and 96^2).
_LARGE = 96**2
_AREAS = {"small": (850.0, 1010.0), "medium": (2000.0, 4500.0), "large": (9900.0, 11500.0)}
_ROOM_FOR_LARGE = 20500  # images of at least this many pixels have one large object
# One for each class, in OpenCV's hue steps (0 to 179): red, blue, green, yellow.
_HUES = (0, 112, 62, 27)
_HUE_SPREAD = 9
_TILT = 0.2  # radians
_MIN_VISIBLE = 0.75
_LEAST_OVERLAP, _MOST_OVERLAP = 0.08, 0.4  # of the smaller object's area
_OCCLUDER_SHARE = 0.8
_TRIES = 40
_MARGIN = 3
_RIM = 2.5  # pixels


@dataclass
class SceneObject:
    """One object (or one crowd region) of a scene.

    Attributes:
        class_index: index into :data:`CLASS_NAMES`.
        mask: (H, W) bool, its visible pixels.
        full_area: number of its pixels before occlusion.
        polygon: outline ``[x0, y0, x1, y1, ...]`` in pixels of the whole object, or None for a
            shape with a hole and for a crowd region.
        is_crowd: whether it is a crowd region: a cluster of many tiny shapes.
    """

    class_index: int
    mask: np.ndarray
    full_area: int
    polygon: list[float] | None
    is_crowd: bool = False

    @property
    def area(self) -> int:
        """Number of visible pixels."""
        return int(self.mask.sum())

    @property
    def is_occluded(self) -> bool:
        """Whether another object covers a part of it."""
        return self.area < self.full_area


def draw_scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    num_objects: int,
    with_crowd: bool = False,
) -> tuple[np.ndarray, list[SceneObject]]:
    """Draw one image.

    Args:
        rng: the only source of randomness.
        height, width: size in pixels, at least 90 each. If the image is large enough, one object
            is large in COCO's sense.
        num_objects: number of objects; an object that does not fit in after 40 tries is left out.
        with_crowd: whether to draw a crowd region as well.

    Returns:
        The image (H, W, 3) uint8 BGR, and its objects in the order in which they were drawn, the
        crowd region first.
    """
    image = _background(rng, height, width)
    colours = [image.reshape(-1, 3).mean(axis=0)]
    objects: list[SceneObject] = []
    if with_crowd:
        crowd = _crowd(rng, height, width)
        _paint(rng, image, crowd, colours)
        objects.append(crowd)
    for area in _draw_areas(rng, num_objects, height, width):
        new = _place(rng, height, width, area, objects)
        if new is None:
            continue
        for other in objects:
            other.mask &= ~new.mask
        _paint(rng, image, new, colours)
        objects.append(new)
    return image, objects


def _draw_areas(rng: np.random.Generator, count: int, height: int, width: int) -> list[float]:
    """Draw the objects' areas, mostly from large to small, so that small ones stay visible."""
    with_large = height * width >= _ROOM_FOR_LARGE
    kinds = list(rng.choice(["small", "medium"], size=count, p=[0.45, 0.55]))
    if count and with_large:
        kinds[0] = "large"
    areas = [float(np.exp(rng.uniform(*np.log(_AREAS[kind])))) for kind in kinds]
    areas.sort(reverse=True)
    if count > 1 and rng.random() < 0.2:  # sometimes a large object covers a smaller one
        first, second = rng.choice(count, size=2, replace=False)
        areas[first], areas[second] = areas[second], areas[first]
    return areas


def _place(
    rng: np.random.Generator, height: int, width: int, area: float, objects: list[SceneObject]
) -> SceneObject | None:
    """Place a shape of about ``area`` pixels where it hides no other too much; None if it fails."""
    for class_index in map(int, rng.permutation(len(CLASS_NAMES))):
        outline, hole = _outline(rng, CLASS_NAMES[class_index], area)
        low = np.array([_MARGIN, _MARGIN]) - outline.min(axis=0)
        high = np.array([width - _MARGIN, height - _MARGIN]) - outline.max(axis=0)
        if (high > low).all():
            break
    else:
        return None
    targets = [o for o in objects if not o.is_crowd and o.class_index != class_index]
    on_top = bool(targets) and rng.random() < _OCCLUDER_SHARE
    for attempt in range(_TRIES):
        centre = rng.uniform(low, high)
        if on_top:
            rows, columns = np.nonzero(targets[rng.integers(len(targets))].mask)
            pixel = rng.integers(len(rows))
            reach = np.sqrt(area) * rng.uniform(0.1, 0.7)
            angle = rng.uniform(0, 2 * np.pi)
            offset = reach * np.array([np.cos(angle), np.sin(angle)])
            centre = np.clip(np.array([columns[pixel], rows[pixel]]) + offset, low, high)
        polygon = np.round(outline + centre, 2)
        mask = _rasterize(polygon, height, width)
        if hole is not None:
            mask &= ~_rasterize(hole + centre, height, width)
        # The second half of the tries does not ask for an overlap.
        if _fits(mask, class_index, objects, on_top if attempt < _TRIES // 2 else None):
            flat = polygon.reshape(-1).tolist() if hole is None else None
            return SceneObject(class_index, mask, int(mask.sum()), flat)
    return None


def _fits(
    mask: np.ndarray, class_index: int, objects: list[SceneObject], on_top: bool | None
) -> bool:
    """Whether ``mask`` may be drawn over ``objects``.

    It must leave enough of each object visible. ``on_top``: whether it must cover a part of another
    object (True), must not (False), or may (None).
    """
    size = int(mask.sum())
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    occluding = False
    for other in objects:
        if other.is_crowd or other.class_index == class_index or on_top is False:
            if (grown & other.mask).any():
                return False
            continue
        hidden = int((mask & other.mask).sum())
        least = _MIN_VISIBLE * other.full_area
        if other.full_area > _LARGE:  # the visible area must stay in the same range
            least = max(least, _LARGE + 1)
        if other.area - hidden < least:
            return False
        smaller = min(size, other.area)
        if hidden > _MOST_OVERLAP * smaller:
            return False
        occluding |= hidden >= _LEAST_OVERLAP * smaller
    return occluding or not on_top


def _outline(
    rng: np.random.Generator, name: str, area: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Outline (n, 2) of a shape of ``area`` pixels around the origin, and of its hole or None."""
    hole = None
    if name == "box":
        ratio = np.sqrt(rng.uniform(0.7, 1.4))
        outline = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (ratio, 1 / ratio) / 2
    elif name == "triangle":
        angles = np.pi * (np.array([0, 2, 4]) / 3 - 0.5) + rng.uniform(-0.15, 0.15, size=3)
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    content = cv2.contourArea(outline.astype(np.float32))
    if name == "ring":
        inner = rng.uniform(0.35, 0.45)
        hole, content = outline * inner, content * (1 - inner**2)
    # A small angle only: the thin tips of a rotated shape, often hidden, would determine its box.
    angle = rng.uniform(-_TILT, _TILT)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.sqrt(area / content)
    return outline @ turn * scale, None if hole is None else hole @ turn * scale


def _crowd(rng: np.random.Generator, height: int, width: int) -> SceneObject:
    """A crowd region: a cluster of tiny shapes of one class, about 60 x 40 pixels."""
    class_index = int(rng.integers(len(CLASS_NAMES)))
    mask = np.zeros((height, width), dtype=bool)
    left, top = rng.integers(8, width - 72), rng.integers(8, height - 52)
    for row in range(3):
        for column in range(4):
            outline, hole = _outline(rng, CLASS_NAMES[class_index], rng.uniform(50, 80))
            centre = (left + 8 + 15 * column, top + 8 + 14 * row) + rng.uniform(-1.5, 1.5, size=2)
            tiny = _rasterize(outline + centre, height, width)
            if hole is not None:
                tiny &= ~_rasterize(hole + centre, height, width)
            mask |= tiny
    return SceneObject(class_index, mask, int(mask.sum()), None, is_crowd=True)


def _rasterize(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """(H, W) bool mask by pycocotools, so that the stored polygon decodes to the same mask."""
    codes = mask_util.frPyObjects([polygon.reshape(-1).tolist()], height, width)
    return mask_util.decode(codes)[:, :, 0].astype(bool)


def _paint(
    rng: np.random.Generator, image: np.ndarray, shape: SceneObject, colours: list[np.ndarray]
) -> None:
    """Paint an object in a textured colour of its class that differs from ``colours``.

    Args:
        rng: the only source of randomness.
        image: (H, W, 3) uint8, changed in place.
        shape: the object; its mask is painted.
        colours: BGR colours in the image so far, the background's first; the new one is appended.
    """
    hues = _HUES[shape.class_index] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD, size=24)
    saturations, values = rng.uniform(140, 255, size=24), rng.uniform(110, 255, size=24)
    hsv = np.stack([hues % 180, saturations, values], axis=1).astype(np.uint8)
    candidates = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0].astype(np.float64)
    distances = np.linalg.norm(candidates[:, None] - np.stack(colours), axis=2)
    # The distance to the background matters most. The first good candidate is taken, not the
    # farthest, so that every colour of the class occurs.
    good = np.flatnonzero((distances[:, 0] > 115) & (distances.min(axis=1) > 70))
    choice = good[0] if len(good) else int(distances.min(axis=1).argmax())
    colour = candidates[choice]
    pattern = 6 * _texture(rng, *shape.mask.shape)[..., None]
    painted = np.clip(colour + pattern, 0, 255)
    if not shape.is_crowd:
        depth = cv2.distanceTransform(shape.mask.astype(np.uint8), cv2.DIST_L2, 3)
        painted[depth <= _RIM] = 25 if colours[0].mean() > 120 else 235
    image[shape.mask] = painted.astype(np.uint8)[shape.mask]
    colours.append(colour)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 of one dull colour with a gradient and with grain, stripes or squares."""
    grey = rng.uniform(40, 200)
    colour = np.clip(grey + rng.uniform(-25, 25, size=3), 0, 255)
    gradient = 2 * (_ramp(rng, height, width) / max(height, width))  # about -1 to 1
    pattern = gradient + _texture(rng, height, width)
    return np.clip(colour + 9 * pattern[..., None], 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) of about unit amplitude: grain, stripes or a checkerboard."""
    kind = rng.integers(3)
    if kind == 0:
        grain = rng.standard_normal((height, width)).astype(np.float32)
        return 2 * cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.8, 1.6))
    period = rng.uniform(6, 14)
    stripes = np.sin(2 * np.pi * _ramp(rng, height, width) / period)
    if kind == 1:
        return stripes
    return np.sign(stripes * np.sin(2 * np.pi * _ramp(rng, height, width) / period))


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) signed distance in pixels from the centre along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.arange(height)[:, None] - height / 2
    columns = np.arange(width)[None, :] - width / 2
    return columns * np.cos(angle) + rows * np.sin(angle)
