"""Boxes, classes and image sizes of a dataset as arrays, and the factors of the resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.structures import BoxMode

from lambda_det.errors import InputError, key

_MODES = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)


@dataclass(frozen=True)
class ObjectStatistics:
    """The n objects of some images, without crowd regions.

    Attributes:
        boxes: (n, 4) x, y, width, height in pixels.
        classes: (n,) contiguous class ids.
        images: (n,) index of each object's image.
        sizes: (images, 2) height and width in pixels.
        unread: number of objects that are left out because their box is rotated or the size of
            their image is not given.
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
        """(n,) height of each object's image in pixels."""
        return self.sizes[self.images, 0]

    @property
    def widths(self) -> np.ndarray:
        """(n,) width of each object's image in pixels."""
        return self.sizes[self.images, 1]


def object_statistics(images: Sequence[dict]) -> ObjectStatistics:
    """Collect the objects of images in detectron2's dataset format.

    Raises:
        InputError: a number of a box is too large for a float.
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
    except OverflowError as error:  # an integer in JSON may have any size
        name = key("DATASETS.TRAIN")
        raise InputError(f"{name}: a number of a bbox is too large for a float") from error
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
