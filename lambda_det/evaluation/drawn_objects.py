"""Draws objects on an image: masks, boxes and labels.

The module uses OpenCV. detectron2's ``Visualizer`` takes about 16 times as long, which matters for
videos, lets labels cover each other and cuts them off at the edge of the image.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.utils.colormap import colormap
from pycocotools.coco import COCO

from lambda_det.data.images.image_files import read_image
from lambda_det.data.reading.coco_json import CocoSet, clean_coco, read_coco
from lambda_det.data.reading.display_names import display_names
from lambda_det.data.reading.file_names import image_paths
from lambda_det.data.reading.rle import compress
from lambda_det.errors import InputError
from lambda_det.evaluation.detections import Detections, box_of_keypoints, read_detections
from lambda_det.evaluation.ground_truth import GroundTruth

_TILE = 400  # pixels; longer side of a drawn image
_UNIT = 1000  # pixels; if the longer side is larger, lines and letters grow with the image
_FAR = 10_000  # pixels; coordinates are clamped to it, because OpenCV cannot draw at huge ones
_FONT = cv2.FONT_HERSHEY_SIMPLEX

LEAST_KEYPOINT_SCORE = 0.05
"""Detected keypoints with a lower score are not drawn, as in detectron2's ``Visualizer``."""


@dataclass
class DrawnObject:
    """One object as it is drawn.

    Attributes:
        box: x, y, width, height in pixels of the image.
        mask: (H, W) bool, or None for an object without a mask.
        label: text that is written at the box.
        colour: B, G, R, each from 0 to 255.
        points: (x, y) of the keypoints in pixels of the image.
    """

    box: tuple[float, float, float, float]
    mask: np.ndarray | None
    label: str
    colour: tuple[int, int, int]
    points: Sequence[tuple[float, float]] = ()


def visible_points(keypoints: Sequence[float], least: float) -> list[tuple[float, float]]:
    """Return the keypoints (x, y) whose third number, a score or COCO's visibility, is above
    ``least``."""
    triples = zip(keypoints[0::3], keypoints[1::3], keypoints[2::3], strict=False)
    return [(x, y) for x, y, certainty in triples if certainty > least]


def draw_objects(
    image: np.ndarray, objects: list[DrawnObject], *, longest: float | None = _TILE
) -> np.ndarray:
    """Draw objects on a scaled copy of an image.

    Args:
        image: (H, W, 3) uint8, BGR.
        objects: the objects; later ones are drawn over earlier ones, and labels over all objects.
        longest: longer side of the result in pixels; None = the size of ``image``.

    Returns:
        (H', W', 3) uint8, BGR.
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
    unit = max(1.0, max(size) / _UNIT)
    boxes = [[min(max(value * scale, -_FAR), _FAR) for value in shape.box] for shape in objects]
    for shape, (x, y, w, h) in zip(objects, boxes, strict=True):
        corners = (round(x), round(y)), (round(x + w), round(y + h))
        cv2.rectangle(canvas, *corners, shape.colour, round(2 * unit))
        for point in shape.points:
            at = tuple(round(min(max(value * scale, -_FAR), _FAR)) for value in point)
            cv2.circle(canvas, at, round(3 * unit), (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(canvas, at, round(2 * unit), shape.colour, -1, cv2.LINE_AA)
    plates: list[tuple[int, int, int, int]] = []
    # Labels are drawn last, so that no object hides them. The last object, which has the best
    # score, chooses its place first.
    for shape, box in reversed(list(zip(objects, boxes, strict=True))):
        plates.append(_put_label(canvas, shape, box, unit, plates))
    return canvas


def _put_label(
    canvas: np.ndarray,
    shape: DrawnObject,
    box: list[float],
    unit: float,
    plates: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Write the label on a filled plate at a corner of the box.

    The plate lies inside the canvas. The function takes the first place where it overlaps none of
    ``plates``, the labels drawn before, or the first place of all if every place overlaps one.

    Returns:
        Left, top, right and bottom of the plate in pixels.
    """
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


def coco_to_draw(annotations: str, images: str) -> COCO:
    """pycocotools' index of a COCO json as it is read for a training; what is mended and left out
    is logged.

    Args:
        annotations: path of the json.
        images: folder of its images, each of which gets the key ``path``.

    Raises:
        InputError: the json is not valid, or an image is missing.
    """
    content = read_coco(annotations, images)
    paths = image_paths([image["file_name"] for image in content.images], images, annotations)
    content.summary.findings.log()
    return index_to_draw(content, paths)


def index_to_draw(content: CocoSet, paths: Sequence[str]) -> COCO:
    """Make the index of :func:`coco_to_draw` of clean content and the path of each image."""
    summary, listed, entries = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{**one, "path": path} for one, path in zip(listed, paths, strict=True)],
            "annotations": entries,
            "categories": [{"id": i, "name": name} for i, name in summary.categories],
        }
        coco.createIndex()
    return coco


def image_of(coco: COCO, image_id: int) -> np.ndarray:
    """Read an image of :func:`coco_to_draw`, (H, W, 3) BGR, on which its objects can be drawn.

    Raises:
        InputError: the file is missing, cannot be read, or has another size than the annotations
            say.
    """
    entry = coco.imgs[image_id]
    path = entry["path"]
    image = read_image(path, expected=(entry["width"], entry["height"]))
    (height, width), said = image.shape[:2], (entry["height"], entry["width"])
    if (height, width) != said:
        raise InputError(
            f"image {path} has {width} x {height} pixels, the annotations say {said[1]} x {said[0]}"
        )
    return image


@functools.cache
def colour_of_class(index: int) -> tuple[int, int, int]:
    """B, G, R of the class with the contiguous id ``index`` (0, 1, …): detectron2's colours without
    the dark ones."""
    table = [colour for colour in colormap(rgb=False, maximum=255) if colour.max() > 150]
    return tuple(int(v) for v in table[(7 * index) % len(table)])


def object_of(coco: COCO, entry: dict, *, detected: bool) -> DrawnObject:
    """The drawn object of an annotation or of a detection.

    Args:
        coco: the annotations' index. The colour of a class depends on its place among the sorted
            category ids, so it is the same in every image.
        entry: an annotation, whose label is the name of its class, or a detection of
            :func:`detections_per_image`, whose label has the score, too.
        detected: whether it is a detection.
    """
    image, code = coco.imgs[entry["image_id"]], None
    ids = sorted(coco.cats)
    index = ids.index(entry["category_id"])
    # Both were checked when the files were read; what has no segmentation has no mask.
    with contextlib.suppress(ValueError):
        code = compress(entry.get("segmentation"), image["height"], image["width"])
    box, keypoints = entry.get("bbox"), entry.get("keypoints") or []
    if not box:
        box = box_of_keypoints(keypoints) if code is None else mask_util.toBbox(code).tolist()
    ending = " (crowd)" if entry.get("iscrowd") else ""
    if detected:
        ending = f" {entry['score']:.2f}"
    return DrawnObject(
        box=tuple(box),
        mask=None if code is None else mask_util.decode(code).astype(bool),
        label=display_names((i, coco.cats[i]["name"]) for i in ids)[index] + ending,
        colour=colour_of_class(index),
        points=visible_points(keypoints, LEAST_KEYPOINT_SCORE if detected else 0.0),
    )


def detections_per_image(path: str, coco: COCO) -> dict[int, list[dict]]:
    """Read detections: image id -> its detections by ascending score (the best is drawn last).

    Args:
        path: path of a ``coco_instances_results.json``.
        coco: the annotations' index, whose images and categories the detections must name.

    Raises:
        InputError: as :class:`~lambda_det.evaluation.detections.Detections`.
    """
    entries = read_detections(path)
    # Only the images and categories are needed, which the detections must name.
    truth = GroundTruth(clean_coco({**coco.dataset, "annotations": []}, "the annotations"))
    Detections(entries, truth, f"predictions {path}")
    per_image: dict[int, list[dict]] = {}
    for entry in sorted(entries, key=lambda entry: entry["score"]):
        per_image.setdefault(entry["image_id"], []).append(entry)
    return per_image
