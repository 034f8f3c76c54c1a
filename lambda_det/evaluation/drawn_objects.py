"""Objects drawn on an image: masks, boxes, labels.

Masks are blended pixel by pixel: detectron2's ``Visualizer`` draws outlines and so fills holes.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.utils.colormap import colormap
from pycocotools.coco import COCO

from lambda_det.data.rle import compress, first_broken
from lambda_det.data.values import is_finite, is_in, shown
from lambda_det.errors import InputError

_TILE = 400  # pixels, longer side of a drawn image
_UNIT = 1000  # pixels, longer side from which on lines and letters grow with the picture
_FAR = 10_000  # pixels; OpenCV draws nothing further away than fits into 32 bits
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass
class DrawnObject:
    """What is drawn of one object.

    Attributes:
        box: x, y, width, height in pixels of the image.
        mask: (H, W) bool, or None.
        label: text at the box.
        colour: B, G, R.
    """

    box: tuple[float, float, float, float]
    mask: np.ndarray | None
    label: str
    colour: tuple[int, int, int]


def draw_objects(
    image: np.ndarray, objects: list[DrawnObject], *, longest: float | None = _TILE
) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) BGR with the objects on it, scaled to a longer side.

    Args:
        image: uint8.
        objects: the later ones are drawn over the earlier ones; no label is hidden by an object.
        longest: pixels of the longer side; None = the size that it has.
    """
    height, width = image.shape[:2]
    scale = 1.0 if longest is None else longest / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    for shape in objects:
        if shape.mask is None:
            continue
        mask = cv2.resize(shape.mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        x, y, w, h = cv2.boundingRect(mask)
        if not w:
            continue
        mask, part = mask[y : y + h, x : x + w], canvas[y : y + h, x : x + w]
        inside = mask.astype(bool)
        part[inside] = (0.5 * part[inside] + 0.5 * np.array(shape.colour)).astype(np.uint8)
        outlines = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))[0]
        cv2.drawContours(canvas, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)
    unit = max(1.0, max(size) / _UNIT)  # lines and letters of a large picture are larger
    for shape in objects:
        x, y, w, h = (min(max(value * scale, -_FAR), _FAR) for value in shape.box)
        corners = (round(x), round(y)), (round(x + w), round(y + h))
        cv2.rectangle(canvas, *corners, shape.colour, round(2 * unit))
    plates: list[tuple[int, int, int, int]] = []
    for shape in reversed(objects):  # last, so that nothing hides them, and the best place first
        box = [min(max(value * scale, -_FAR), _FAR) for value in shape.box]
        plates.append(_put_label(canvas, shape, box, unit, plates))
    return canvas


def _put_label(
    canvas: np.ndarray,
    shape: DrawnObject,
    box: list[float],
    unit: float,
    plates: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Dark or light text on a plate at a corner of the box, inside the canvas and where no other
    label is, if there is such a place; returns the plate's left, top, right, bottom."""
    size, thick = 0.42 * unit, max(1, round(unit))
    (width, height), base = cv2.getTextSize(shape.label, _FONT, size, thick)
    width, tall = width + 4, height + base + 2
    x, y, w, h = box
    places = []
    for top in (y - tall, y, y + h, y + h - tall):
        for left in (x, x + w - width):
            left = int(min(max(0, left), max(0, canvas.shape[1] - width)))
            upper = int(min(max(0, top), max(0, canvas.shape[0] - tall)))
            places.append((left, upper, left + width, upper + tall))
    plate = next((p for p in places if not any(_overlap(p, other) for other in plates)), places[0])
    left, top, right, bottom = plate
    cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), shape.colour, -1)
    text = (0, 0, 0) if np.dot(shape.colour, (0.11, 0.59, 0.3)) > 120 else (255, 255, 255)
    at = (left + 2, top + height + 1)
    cv2.putText(canvas, shape.label, at, _FONT, size, text, thick, cv2.LINE_AA)
    return plate


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def class_colours(coco: COCO) -> dict[int, tuple[int, int, int]]:
    """detectron2's colours but the dark ones, by class; what is in the images plays no part."""
    return {
        category_id: colour_of_class(index) for index, category_id in enumerate(sorted(coco.cats))
    }


def colour_of_class(index: int) -> tuple[int, int, int]:
    """B, G, R of the class with a contiguous number."""
    table = [colour for colour in colormap(rgb=False, maximum=255) if colour.max() > 150]
    return tuple(int(v) for v in table[(7 * index) % len(table)])


def _mask(segmentation: object, height: int, width: int) -> np.ndarray:
    """(H, W) bool; ValueError for what is no mask of this size."""
    code = compress(segmentation, height, width, skip_short_polygons=True)
    if first_broken([code]) is not None:
        raise ValueError("is not one whole RLE of its image")
    return mask_util.decode(code).astype(bool)


def object_of_annotation(coco: COCO, annotation: dict, colours: dict) -> DrawnObject:
    image = coco.imgs[annotation["image_id"]]
    mask = None
    with contextlib.suppress(ValueError):  # polygons of two points; the rest was checked
        mask = _mask(annotation.get("segmentation"), image["height"], image["width"])
    name = coco.cats[annotation["category_id"]]["name"]
    return DrawnObject(
        box=tuple(annotation["bbox"]),
        mask=mask,
        label=f"{name} (crowd)" if annotation.get("iscrowd") else name,
        colour=colours[annotation["category_id"]],
    )


def object_of_detection(
    coco: COCO, detection: dict, height_width: tuple[int, int], colours: dict, path: str
) -> DrawnObject:
    mask = None
    if detection.get("segmentation"):
        try:
            mask = _mask(detection["segmentation"], *height_width)
        except ValueError as error:
            raise InputError(
                f"predictions {path}: a segmentation of image {detection['image_id']} {error}"
            ) from error
    name = coco.cats[detection["category_id"]]["name"]
    return DrawnObject(
        box=tuple(detection["bbox"]),
        mask=mask,
        label=f"{name} {detection['score']:.2f}",
        colour=colours[detection["category_id"]],
    )


def detections_per_image(path: str, coco: COCO) -> dict[int, list[dict]]:
    """Detections per image id, in ascending order of score (the best is drawn last)."""
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"predictions {path} are not in COCO's results format: not a list")
    per_image: dict[int, list[dict]] = {}
    for index, detection in enumerate(content):
        keys = ("image_id", "category_id", "bbox", "score")
        if not isinstance(detection, dict) or any(key not in detection for key in keys):
            raise InputError(f"predictions {path}: entry {index} lacks one of {', '.join(keys)}")
        box = detection["bbox"]
        is_box = isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))
        if not is_box or not is_finite(detection["score"]):
            raise InputError(
                f"predictions {path}: entry {index} has score {shown(detection['score'])} and bbox "
                f"{shown(box)}; a finite number, and four of them, are needed"
            )
        if not is_in(detection["image_id"], coco.imgs):
            raise InputError(
                f"predictions {path}: image_id {detection['image_id']!r} of entry {index} is not "
                "in the annotations"
            )
        if not is_in(detection["category_id"], coco.cats):
            raise InputError(
                f"predictions {path}: category_id {detection['category_id']!r} of entry {index} "
                "is not in the annotations"
            )
        per_image.setdefault(detection["image_id"], []).append(detection)
    for detections in per_image.values():
        detections.sort(key=lambda d: d["score"])
    return per_image


def read_json(path: str) -> object:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def read_image(path: str) -> np.ndarray:
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"image {path} cannot be read")
    return image
