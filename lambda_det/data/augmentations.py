"""Large-scale jitter (LSJ), and a resize that works for long thin images.

Large-scale jitter scales an image by a random factor, then crops or pads it to a fixed size. It is
the augmentation of detectron2's ``new_baselines`` and of Google's ``resize_and_crop_image``, with
two corrections for masks and for thin images; see the classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import PadTransform

from lambda_det.errors import InputError, key


def large_scale_jitter(
    *, scale: Sequence[float], size: Sequence[int], flip: str = "horizontal"
) -> list[T.Augmentation]:
    """The training augmentations of the from-scratch recipe.

    Args:
        scale: smallest and largest factor by which ``size`` is multiplied. The image is scaled to
            fit into the result; its aspect ratio stays the same.
        size: (height, width) in pixels of the images after the augmentations.
        flip: ``"horizontal"``, ``"vertical"`` or ``"none"`` (``INPUT.RANDOM_FLIP``).

    Raises:
        InputError: a value is out of range; the text names the ``INPUT`` key.
    """
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise InputError(
            f"{key('INPUT.LSJ.SCALE')} {tuple(scale)}: two factors are needed, "
            "0 < smallest <= largest"
        )
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise InputError(
            f"{key('INPUT.LSJ.SIZE')} {tuple(size)}: height and width are needed, integers above 0"
        )
    augmentations: list[T.Augmentation] = [
        KeepOnePixel(T.ResizeScale(scale[0], scale[1], size[0], size[1])),
        InstanceFixedSizeCrop(crop_size=tuple(size)),
    ]
    if flip != "none":
        augmentations.append(
            T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")
        )
    return augmentations


class InstanceFixedSizeCrop(T.FixedSizeCrop):
    """detectron2's ``FixedSizeCrop``, with instance masks padded by 0.

    Later versions of detectron2 pad segmentations with 255, the "ignore" label of semantic
    segmentation; early versions of fvcore's ``PadTransform`` pad them with the image's 128. Either
    would make the whole padding a part of every object's bitmask.
    """

    def get_transform(self, image: np.ndarray) -> T.TransformList:
        """Draw the crop and return it with the padding of ``image`` (H, W, C)."""
        transforms = super().get_transform(image).transforms
        return T.TransformList(
            [_InstancePad.like(t) if isinstance(t, PadTransform) else t for t in transforms]
        )


class _InstancePad(PadTransform):
    @classmethod
    def like(cls, pad: PadTransform) -> _InstancePad:
        return cls(pad.x0, pad.y0, pad.x1, pad.y1, pad.orig_w, pad.orig_h, pad.pad_value)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return np.pad(segmentation, ((self.y0, self.y1), (self.x0, self.x1)))


class KeepOnePixel(T.Augmentation):
    """A resizing of detectron2, with a shorter side of at least one pixel.

    detectron2 resizes an image of 1 x 5000 pixels, with a limit of 1333, to 0 x 1333, which stops
    the training.

    Args:
        resize: the augmentation that chooses the size.
    """

    def __init__(self, resize: T.ResizeShortestEdge | T.ResizeScale) -> None:
        super().__init__()
        self._resize = resize

    def __repr__(self) -> str:
        return repr(self._resize)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Draw the size and return the resizing of ``image`` (H, W, C)."""
        transform = self._resize.get_transform(image)
        if not isinstance(transform, T.ResizeTransform):
            return transform
        size = max(1, int(transform.new_h)), max(1, int(transform.new_w))
        return T.ResizeTransform(transform.h, transform.w, *size, transform.interp)


def keep_one_pixel(augmentations: list) -> list:
    """The same augmentations with each ``ResizeShortestEdge`` wrapped in :class:`KeepOnePixel`."""
    return [KeepOnePixel(a) if isinstance(a, T.ResizeShortestEdge) else a for a in augmentations]
