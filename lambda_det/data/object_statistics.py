"""Boxes, classes and image sizes of a dataset as arrays, and how large training makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode

from lambda_det.errors import InputError

_MODES = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)


@dataclass(frozen=True)
class ObjectStatistics:
    """The objects (crowd regions left out) of some images.

    Attributes:
        boxes: (n, 4) x, y, width, height in pixels.
        classes: (n) contiguous ids.
        images: (n) index of each object's image.
        sizes: (images, 2) height and width in pixels.
        unread: number of objects left out: rotated boxes, images whose record has no size.
    """

    boxes: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    sizes: np.ndarray
    unread: int = 0

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def heights(self) -> np.ndarray:
        """(n) height of each object's image."""
        return self.sizes[self.images, 0]

    @property
    def widths(self) -> np.ndarray:
        """(n) width of each object's image."""
        return self.sizes[self.images, 1]


def object_statistics(images: Sequence[dict]) -> ObjectStatistics:
    """The objects of images in detectron2's dataset format.

    Raises:
        InputError: a number of a box is beyond a float.
    """
    boxes, classes, owners, modes, unread = [], [], [], [], 0
    for index, image in enumerate(images):
        has_size = "height" in image and "width" in image
        for annotation in image.get("annotations", ()):
            if annotation.get("iscrowd", 0):
                continue
            mode = annotation.get("bbox_mode")
            if not has_size or mode not in _MODES:
                unread += 1
                continue
            boxes.append(annotation["bbox"])
            classes.append(annotation["category_id"])
            modes.append(mode == BoxMode.XYXY_ABS)
            owners.append(index)
    try:
        array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    except OverflowError as error:  # JSON's integers have no limit
        raise InputError("DATASETS.TRAIN: a number of a bbox is beyond a float") from error
    corners = np.asarray(modes, dtype=bool)
    array[corners, 2:] -= array[corners, :2]
    sizes = [(image.get("height", 0), image.get("width", 0)) for image in images]
    return ObjectStatistics(
        boxes=array,
        classes=np.asarray(classes, dtype=np.int64),
        images=np.asarray(owners, dtype=np.int64),
        sizes=np.asarray(sizes, dtype=np.float64).reshape(-1, 2),
        unread=unread,
    )


@dataclass(frozen=True)
class TrainingResize:
    """By what factors training scales an image.

    Args:
        short_sides: that the shorter side is resized to, in pixels; 0 = as it is.
        longest: most pixels of the longer side.
        fit: smallest and largest factor, and (height, width) that the image is scaled to fit into
            times that factor (large-scale jitter); None = the shorter side decides.
    """

    short_sides: tuple[int, ...] = ()
    longest: float = float("inf")
    fit: tuple[tuple[float, float], tuple[int, int]] | None = None

    def factors(self, heights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n) heights and widths -> (n) smallest and (n) largest factor."""
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
