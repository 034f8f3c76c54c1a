"""Checks, before the first iteration, that a detector can learn from the training set's objects.

Each check looks for a mistake, such as boxes in the wrong format, that otherwise shows only as an
AP of 0 after a long training. A certain mistake raises InputError; a likely one logs a warning that
says what to do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

_FEW = 20  # with fewer boxes than this, a pattern may be chance
# Shares of the objects from which on a warning is logged. _MOST is high because small training
# images are legal: at 128 pixels, half of COCO's objects are smaller than 9 pixels.
_SOME, _MOST = 0.1, 0.75
_SMALL_IOU = 0.3  # an anchor of lower IoU is background to the RPN (RetinaNet: 0.4)
_SMALLEST = 8  # side in pixels; in smaller images, relative boxes look like pixels


@dataclass(frozen=True)
class TrainingResize:
    """How the training resizes an image: by its shorter side, or by large-scale jitter.

    Args:
        short_sides: lengths in pixels, one of which the shorter side is resized to; 0 does not
            resize.
        longest: largest length of the longer side in pixels.
        fit: for large-scale jitter, (smallest factor, largest factor) and (height, width): the
            image is scaled to fit into height and width times a factor. If this is given, the
            other two are not used.
    """

    short_sides: tuple[int, ...] = ()
    longest: float = float("inf")
    fit: tuple[tuple[float, float], tuple[int, int]] | None = None

    def factors(self, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) heights and widths of images -> (n,) smallest and (n,) largest scale factors."""
        if self.fit is not None:
            (low, high), (height, width) = self.fit
            fitting = np.minimum(height / heights, width / widths)
            return low * fitting, high * fitting
        shorter, longer = np.minimum(heights, widths), np.maximum(heights, widths)
        low, high = (
            np.minimum(side / shorter, self.longest / longer) if side else np.ones_like(shorter)
            for side in (min(self.short_sides), max(self.short_sides))
        )
        return low, high


@dataclass(frozen=True)
class _Objects:
    """The n objects of a training set, without crowd regions.

    Attributes:
        boxes: (n, 4) x, y, width, height in pixels.
        classes: (n,) contiguous class ids.
        heights, widths: (n,) sides of each object's image in pixels.
    """

    boxes: np.ndarray
    classes: np.ndarray
    heights: np.ndarray
    widths: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def check_images(
    images: Sequence[dict],
    names: Sequence[str],
    *,
    resize: TrainingResize,
    num_classes: int | None,
    anchor_sizes: Sequence[float] = (),
) -> None:
    """Check the classes and boxes of a training set; a likely mistake logs a warning.

    Rotated boxes, and objects of images without a size, are not checked.

    Args:
        images: in detectron2's dataset format. If the first has no annotations, nothing is checked.
        names: the datasets of the training set.
        resize: how the training resizes the images.
        num_classes: number of classes of the model's head; None if it has no classes.
        anchor_sizes: square roots of the anchors' areas in pixels; empty for a model without
            anchors.

    Raises:
        InputError: there is no object; a class id is not one of the model's; a box is not finite;
            all boxes are empty, or relative to the image's size, or two corners in place of corner
            and size; or all objects are smaller than a pixel after resizing.
    """
    if "annotations" not in images[0]:
        return
    source = f"{key('DATASETS.TRAIN')} {tuple(names)}"
    annotations = [
        (annotation, image)
        for image in images
        for annotation in image.get("annotations", ())
        if not annotation.get("iscrowd", 0)
    ]
    if not annotations:
        raise InputError(
            f"{source}: no image has a usable object (crowd regions and objects whose polygons all "
            "have fewer than 3 points do not count)"
        )
    objects = _readable(annotations)
    if not len(objects):
        return
    if num_classes is not None:
        class_names = MetadataCatalog.get(names[0]).get("thing_classes") or () if names else ()
        _check_classes(objects, source, num_classes, class_names)
    _check_sides(objects, source)
    relative = _check_relative(objects, source)
    _check_corners(objects, source)
    if not relative:
        _check_sizes(objects, source, resize, anchor_sizes)


def _readable(annotations: Sequence[tuple[dict, dict]]) -> _Objects:
    """The objects of (annotation, image) pairs whose boxes are not rotated and whose images have a
    size."""
    modes = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    read = [
        (a, image)
        for a, image in annotations
        if a.get("bbox_mode") in modes and "height" in image and "width" in image
    ]
    try:
        boxes = np.array([a["bbox"] for a, _ in read], dtype=np.float64).reshape(-1, 4)
    except OverflowError as error:  # an integer in JSON may have any size
        name = key("DATASETS.TRAIN")
        raise InputError(f"{name}: a number of a bbox is too large for a float") from error
    corners = np.array([a["bbox_mode"] == BoxMode.XYXY_ABS for a, _ in read], dtype=bool)
    boxes[corners, 2:] -= boxes[corners, :2]
    sizes = np.array([(i["height"], i["width"]) for _, i in read], dtype=np.float64).reshape(-1, 2)
    classes = np.array([a["category_id"] for a, _ in read], dtype=np.int64)
    return _Objects(boxes, classes, heights=sizes[:, 0], widths=sizes[:, 1])


def _check_classes(
    objects: _Objects, source: str, num_classes: int, class_names: Sequence[str]
) -> None:
    low, high = int(objects.classes.min()), int(objects.classes.max())
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise InputError(
            f"{source}: an object has the contiguous class id {wrong}, but the model has "
            f"{num_classes} classes (0 to {num_classes - 1}); give the dataset thing_classes in "
            f"its metadata, or set {key('MODEL.ROI_HEADS.NUM_CLASSES')} "
            f"({key('MODEL.RETINANET.NUM_CLASSES')})"
        )
    used = set(np.unique(objects.classes).tolist())
    unused = [index for index in range(num_classes) if index not in used]
    if unused:
        names = [class_names[i] if i < len(class_names) else f"class {i}" for i in unused]
        logger.info(
            "%s: %d of %d classes have no object to learn from: %s",
            source, len(unused), num_classes, _some(names),
        )  # fmt: skip


def _check_sides(objects: _Objects, source: str) -> None:
    broken = ~np.isfinite(objects.boxes).all(axis=1)
    if broken.any():
        box = objects.boxes[broken][0].tolist()
        raise InputError(f"{source}: {int(broken.sum())} boxes are not finite (first: {box})")
    empty = (objects.boxes[:, 2:] <= 0).any(axis=1)
    if empty.all():
        raise InputError(
            f"{source}: all {len(objects)} boxes have a width or height of 0 or less; four numbers "
            "x, y, width, height in pixels are needed"
        )
    if empty.any():
        logger.warning(
            "%s: %d of %d boxes have a width or height of 0 or less; these objects are not learned",
            source, int(empty.sum()), len(objects),
        )  # fmt: skip


def _check_relative(objects: _Objects, source: str) -> bool:
    """Raise InputError if all boxes are relative to the image's size; warn if many are.

    Returns:
        Whether a warning was logged.
    """
    ends = objects.boxes[:, :2] + objects.boxes[:, 2:]
    relative = (
        (objects.boxes >= 0).all(axis=1)
        & (ends.max(axis=1) <= 1.0 + 1e-6)
        & (np.minimum(objects.heights, objects.widths) >= _SMALLEST)
    )
    count = int(relative.sum())
    if count == len(objects):
        raise InputError(
            f"{source}: all {count} boxes lie within 0 and 1, as if relative to the image's "
            "size; pixels are needed (multiply x and width by its width, y and height by "
            "its height)"
        )
    if count > _SOME * len(objects):
        logger.warning(
            "%s: %d of %d boxes lie within 0 and 1, as if relative to the image's size; pixels are "
            "needed",
            source, count, len(objects),
        )  # fmt: skip
        return True
    return False


def _check_corners(objects: _Objects, source: str) -> None:
    """Check that boxes end within their image.

    Boxes given as x1, y1, x2, y2 and read as x, y, width, height mostly reach beyond it.
    """
    x, y, third, fourth = objects.boxes.T
    heights, widths = objects.heights, objects.widths
    beyond = (x + third > 1.05 * widths + 1) | (y + fourth > 1.05 * heights + 1)
    count = int(beyond.sum())
    if count <= _SOME * len(objects):
        return
    as_corners = (third > x) & (fourth > y) & (third <= widths + 1) & (fourth <= heights + 1)
    if as_corners.all() and len(objects) >= _FEW:
        raise InputError(
            f"{source}: {count} of {len(objects)} boxes reach beyond their image as x, y, width, "
            "height, and all of them fit into it as corners x1, y1, x2, y2; COCO's bbox is "
            "[x1, y1, x2 - x1, y2 - y1]"
        )
    logger.warning(
        "%s: %d of %d boxes reach beyond their image; are they x, y, width, height in pixels of "
        "these images? (%d of %d would fit as corners x1, y1, x2, y2)",
        source, count, len(objects), int(as_corners.sum()), len(objects),
    )  # fmt: skip


def _check_sizes(
    objects: _Objects, source: str, resize: TrainingResize, anchor_sizes: Sequence[float]
) -> None:
    low, high = resize.factors(objects.heights, objects.widths)
    sides = objects.boxes[:, 2:].clip(min=0)
    largest = sides.min(axis=1) * high
    tiny = int((largest < 1).sum())
    if tiny == len(objects):
        raise InputError(
            f"{source}: all {tiny} objects are narrower than a pixel after resizing (at most "
            f"{largest.max():.2g}); check the unit of bbox, width and height, and INPUT's sizes"
        )
    if tiny > _SOME * len(objects):
        logger.warning(
            "%s: %d of %d objects are narrower than a pixel after resizing and cannot be "
            "detected; raise %s and %s (%s), or cut the images into tiles",
            source, tiny, len(objects), key("INPUT.MIN_SIZE_TRAIN"), key("INPUT.MAX_SIZE_TRAIN"),
            key("INPUT.LSJ.SIZE"),
        )  # fmt: skip
    if not len(anchor_sizes):
        return
    # The IoU of a box and an anchor is at most the ratio of their areas.
    scale = np.sqrt(sides.prod(axis=1))
    ratio = np.sqrt(_SMALL_IOU)
    too_small = int((scale * high < ratio * min(anchor_sizes)).sum())
    too_large = int((scale * low > max(anchor_sizes) / ratio).sum())
    if too_small + too_large > _MOST * len(objects):
        logger.warning(
            "%s: %d of %d objects are too small and %d too large for every anchor (IoU below %g; "
            "%s has %g to %g pixels, the median object %.3g to %.3g after resizing); change these "
            "or the sizes of the images",
            source, too_small, len(objects), too_large, _SMALL_IOU,
            key("MODEL.ANCHOR_GENERATOR.SIZES"), min(anchor_sizes), max(anchor_sizes),
            float(np.median(scale * low)), float(np.median(scale * high)),
        )  # fmt: skip


def _some(names: Sequence[str], limit: int = 8) -> str:
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text}, ... ({len(names) - limit} more)"
