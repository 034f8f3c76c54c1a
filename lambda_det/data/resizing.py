"""Resizing of pictures that are very long and thin."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T


class KeepOnePixel(T.Augmentation):
    """detectron2's ``ResizeShortestEdge``, with at least one pixel left on the shorter side.

    1 x 5000 pixels made to fit into 1333 would be 0 x 1333, which stops a training.

    Args:
        resize: the augmentation to take the size from.
    """

    def __init__(self, resize: T.ResizeShortestEdge) -> None:
        super().__init__()
        self._resize = resize

    def __repr__(self) -> str:
        return repr(self._resize)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the size and return the resizing of ``image`` (H, W, C)."""
        transform = self._resize.get_transform(image)
        if not isinstance(transform, T.ResizeTransform) or min(transform.new_h, transform.new_w):
            return transform
        size = max(1, transform.new_h), max(1, transform.new_w)
        return T.ResizeTransform(transform.h, transform.w, *size, transform.interp)


def keep_one_pixel(augmentations: list) -> list:
    """The same augmentations, each ``ResizeShortestEdge`` as :class:`KeepOnePixel`."""
    return [KeepOnePixel(a) if isinstance(a, T.ResizeShortestEdge) else a for a in augmentations]
