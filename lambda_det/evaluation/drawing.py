"""Draws ground truth and predictions side by side into one PNG file."""

from __future__ import annotations

import contextlib

import cv2
import numpy as np
from pycocotools.coco import COCO

from lambda_det.data.reading.values import id_order
from lambda_det.errors import InputError, writing
from lambda_det.evaluation.drawn_objects import (
    coco_to_draw,
    detections_per_image,
    draw_objects,
    image_of,
    object_of,
)
from lambda_det.evaluation.metrics import TASK_NAMES
from lambda_det.io import read_json, write_bytes

_GAP = 8
_PAIR_GAP = 28
_HEADER = 34
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_predictions(
    annotations: str,
    images: str,
    predictions: str,
    output: str,
    *,
    num_images: int = 6,
    score_threshold: float = 0.5,
    title: str = "",
) -> list[int]:
    """Write one PNG file with pairs "ground truth | prediction".

    Images with objects of several classes come first, see :func:`choose_images`.

    Args:
        annotations: path of the COCO instances json.
        images: folder of its images.
        predictions: path of ``coco_instances_results.json``, as detectron2's evaluator writes it.
        output: path of the PNG file; an existing file is replaced only when the new one is
            complete.
        num_images: the largest number of images to draw.
        score_threshold: predictions with a lower score are not drawn.
        title: a line of text at the top, such as the AP.

    Returns:
        The ids of the images that were drawn.

    Raises:
        InputError: a file is missing or invalid, or a number is out of range.
    """
    if num_images < 1:
        raise InputError(f"--num-images {num_images}: at least 1 is needed")
    if not 0 <= score_threshold <= 1:
        raise InputError(f"--score-threshold {score_threshold}: 0 to 1 is allowed")
    coco = coco_to_draw(annotations, images)
    detections = detections_per_image(predictions, coco)
    chosen = choose_images(coco, num_images)
    pairs = []
    for image_id in chosen:
        image = image_of(coco, image_id)
        truth = [object_of(coco, a, detected=False) for a in coco.imgToAnns[image_id]]
        found = [
            object_of(coco, d, detected=True)
            for d in detections.get(image_id, [])
            if d["score"] >= score_threshold
        ]
        pairs.append((draw_objects(image, truth), draw_objects(image, found)))
    with writing(f"--output {output}"):
        write_bytes(cv2.imencode(".png", _compose(pairs, title))[1].tobytes(), output)
    return chosen


def title_from_metrics(path: str) -> str:
    """Make a title such as ``box AP 71.2  mask AP 70.4`` from a ``metrics.json``.

    The file holds ``{"bbox": {"AP": ...}, "segm": {"AP": ...}}`` or one of the two; APs are in
    percent.

    Raises:
        InputError: the file is missing or contains no such metrics.
    """
    metrics, parts = read_json(path), []
    with contextlib.suppress(TypeError, KeyError, ValueError):
        parts = [
            f"{name} AP {metrics[task]['AP']:.1f}"
            for task, name in TASK_NAMES.items()
            if task in metrics
        ]
    if not parts:
        raise InputError(f"metrics file {path} holds no AP of bbox or segm")
    return "  ".join(parts)


def choose_images(coco: COCO, count: int) -> list[int]:
    """Choose ``count`` images and return their ids; the choice is the same in every run.

    Images with objects of four or more classes come first, then those with three, two, one and
    none. Within each group, images with fewer objects come first, because they are easier to read,
    and then images with smaller ids.
    """

    def key(image_id: int | str) -> tuple:
        objects = [a for a in coco.imgToAnns[image_id] if not a.get("iscrowd")]
        num_classes = len({a["category_id"] for a in objects})
        return (-min(num_classes, 4), len(objects), *id_order(image_id))

    return sorted(coco.imgs, key=key)[:count]


def _compose(pairs: list[tuple[np.ndarray, np.ndarray]], title: str) -> np.ndarray:
    """Arrange the pairs in rows on a white sheet, with headers above.

    A row has one pair for up to three images and two pairs for more.
    """
    per_row = 2 if len(pairs) > 3 else 1
    rows = [pairs[i : i + per_row] for i in range(0, len(pairs), per_row)]
    heights = [max(image.shape[0] for pair in row for image in pair) for row in rows]
    width = max(image.shape[1] for pair in pairs for image in pair)
    lefts = [
        _GAP + index * (width + _GAP) + (index // 2) * (_PAIR_GAP - _GAP)
        for index in range(2 * per_row)
    ]
    top = _GAP + (_HEADER if title else 0) + _HEADER
    shape = (top + sum(heights) + len(rows) * _GAP, lefts[-1] + width + _GAP, 3)
    sheet = np.full(shape, 255, dtype=np.uint8)
    if title:
        cv2.putText(sheet, title, (_GAP, _HEADER - 8), _FONT, 0.8, (0, 0, 0), 2, cv2.LINE_AA)
    for index, left in enumerate(lefts):
        text = "prediction" if index % 2 else "ground truth"
        cv2.putText(sheet, text, (left, top - 12), _FONT, 0.65, (60, 60, 60), 1, cv2.LINE_AA)
    for row, height in zip(rows, heights, strict=True):
        tiles = [image for pair in row for image in pair]
        for image, left in zip(tiles, lefts, strict=False):
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
        top += height + _GAP
    return sheet
