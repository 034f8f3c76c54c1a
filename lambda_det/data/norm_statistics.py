"""Unfolding of BatchNorm with the statistics of a folder of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from torch import Tensor

from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.checkpoint.architecture import NOT_IN_SHAPES
from lambda_det.checkpoint.folded_norms import at_equal_distances, unfold
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.checkpoint.translation import TranslatedWeights
from lambda_det.config import get_cfg
from lambda_det.data.augmentations import keep_one_pixel
from lambda_det.data.images.image_files import ImageReading, image_names, read_image
from lambda_det.errors import InputError, UnreadableImageError

logger = logging.getLogger(__name__)

DEFAULT_COUNT = 64


def unfold_on_folder(
    weights: TranslatedWeights, folder: str, *, count: int = DEFAULT_COUNT, cfg: CfgNode | None
) -> tuple[TranslatedWeights, str]:
    """Measure the statistics of norms that were folded into convolutions, on the network in a file.

    Args:
        weights: of a file whose norms have no statistics.
        folder: folder of images; sub-folders are searched, too.
        count: largest number of images, which are taken at equal distances in the order of names.
        cfg: its ``INPUT.*_TEST`` give the size; its images and arguments are those of the network
            where the file does not tell them. None = detectron2's size.

    Returns:
        The weights with measured norms, and what was measured, in words.

    Raises:
        InputError: the format of the network's images is not known, the folder does not exist, no
            image can be read, or as :func:`~lambda_det.checkpoint.folded_norms.unfold`.
    """
    images, given = weights.images, {} if cfg is None else lambda_resnet_arguments(cfg)
    if images is None and cfg is not None:
        images = ImageFormat.from_config(cfg)
    if images is None:
        raise InputError(
            f"{weights.path}: the format of its images is unknown, so --measure-on needs "
            "--config-file, whose INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD they have"
        )
    if not os.path.isdir(folder):
        raise InputError(f"--measure-on {folder}: no such folder")
    hidden = {name: given[name] for name in NOT_IN_SHAPES if name in given}
    inputs = _Inputs(folder, count, images, get_cfg() if cfg is None else cfg)
    architecture = {**hidden, **weights.architecture()}
    tensors, number = unfold(weights.path, weights.tensors, architecture, inputs)
    text = f"the statistics of {number} norms were measured on {inputs.read} {images} of {folder}"
    return replace(weights, tensors=tensors), text


class _Inputs:
    """The inputs (1, 3, H, W) of a network that is made for images of a format.

    Attributes:
        read: number of images that were read.
    """

    def __init__(self, folder: str, count: int, images: ImageFormat, cfg: CfgNode) -> None:
        self.read = 0
        self._folder, self._images = folder, images
        places = sorted(place for place, _, _ in os.walk(folder))
        files = [os.path.join(place, name) for place in places for name in image_names(place)]
        self._files = at_equal_distances(files, count)
        augmentations = detection_utils.build_augmentation(cfg, is_train=False)
        self._resize = T.AugmentationList(keep_one_pixel(augmentations))
        self._reading = ImageReading.from_config(cfg)

    def __iter__(self) -> Iterator[Tensor]:
        for path in self._files:
            try:
                pixels = read_image(path, self._images.channel_order, reading=self._reading)
            except UnreadableImageError as error:
                logger.warning("--measure-on: %s; it is left out", error)
                continue
            self.read += 1
            resized = T.AugInput(pixels)
            self._resize(resized)
            array = np.ascontiguousarray(resized.image.transpose(2, 0, 1))
            yield self._images.normalised(torch.from_numpy(array))
        if not self.read:
            raise InputError(f"--measure-on {self._folder}: contains no image that can be read")
