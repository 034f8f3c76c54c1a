"""What images a network was trained on, against what a config gives it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

logger = logging.getLogger(__name__)

FIRST_WEIGHT = "stem.conv1.weight"
_TOLERANCE = 1e-3  # of the ratio of standard deviations
_MEAN_TOLERANCE = 0.5  # grey levels of 0 ... 255


@dataclass(frozen=True)
class ImageFormat:
    """Channel order, and mean and standard deviation per channel, in this order, of 0 ... 255."""

    channel_order: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = (
            "[" + ", ".join(f"{value:g}" for value in values) + "]"
            for values in (self.pixel_mean, self.pixel_std)
        )
        return f"{self.channel_order} images, mean {mean}, standard deviation {std}"

    def as_dict(self) -> dict[str, object]:
        """Plain types, for a file."""
        return {
            "channel_order": self.channel_order,
            "pixel_mean": list(self.pixel_mean),
            "pixel_std": list(self.pixel_std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ImageFormat:
        """The inverse of :meth:`as_dict`.

        Raises:
            KeyError: an entry is missing.
            TypeError: an entry is no list of numbers.
            ValueError: an entry is not three numbers, or a standard deviation is not positive.
        """
        mean, std = (tuple(map(float, values[key])) for key in ("pixel_mean", "pixel_std"))
        if not len(mean) == len(std) == 3 or not all(value > 0 for value in std):
            raise ValueError("expected three means and three positive standard deviations")
        return cls(str(values["channel_order"]), mean, std)

    @classmethod
    def from_unit_range(cls, mean: Mapping | tuple, std: Mapping | tuple) -> ImageFormat:
        """RGB, of mean and standard deviation of pixels in 0 ... 1, as timm gives them."""
        return cls("RGB", *(tuple(round(255 * v, 4) for v in values) for values in (mean, std)))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ImageFormat:
        """What ``cfg`` feeds to the network."""
        model = cfg.MODEL
        return cls(cfg.INPUT.FORMAT, tuple(model.PIXEL_MEAN), tuple(model.PIXEL_STD))

    def in_order(self, channel_order: str) -> ImageFormat:
        """The same images with their channels in the other order."""
        if channel_order == self.channel_order:
            return self
        return ImageFormat(channel_order, self.pixel_mean[::-1], self.pixel_std[::-1])


IMAGENET = ImageFormat("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""torchvision's, timm's resnetrs and lambda networks', d-li14's."""

MSRA = ImageFormat("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
"""Caffe's, which detectron2's defaults are made for."""


def fit_to_config(
    tensors: dict[str, Tensor], trained_on: ImageFormat | None, given: ImageFormat, path: str
) -> ImageFormat | None:
    """Mend what can be mended exactly in the first convolution, and warn of the rest.

    Channels in the other order are exchanged, another standard deviation is multiplied in. Another
    mean would need a bias that the padding does not have, so it is warned of.

    Args:
        tensors: of the bare backbone; the first weight is replaced.
        trained_on: what the file was trained with; None = unknown, nothing is compared.
        given: what the config feeds.
        path: the file, for the messages.

    Returns:
        What the tensors are for now: ``trained_on`` but for what was mended.
    """
    if trained_on is None:
        logger.info("%s: the format of its images is unknown, it was not compared", path)
        return None
    weight = tensors.get(FIRST_WEIGHT)
    if weight is None:
        return trained_on
    if {trained_on.channel_order, given.channel_order} - {"RGB", "BGR"}:
        logger.warning(
            "%s was trained on %s, INPUT.FORMAT is %r", path, trained_on, given.channel_order
        )
        return trained_on
    wanted = trained_on.in_order(given.channel_order)
    if wanted is not trained_on:
        weight = weight.flip(1)
        logger.info(
            "%s was trained on %s images and INPUT.FORMAT is %r: the input channels of %s were "
            "exchanged",
            path, trained_on.channel_order, given.channel_order, FIRST_WEIGHT,
        )  # fmt: skip
    scale = torch.tensor(given.pixel_std) / torch.tensor(wanted.pixel_std)
    if (scale - 1).abs().max() > _TOLERANCE:
        weight = weight * scale.to(weight.dtype)[:, None, None]
        logger.info(
            "%s was trained with pixel std %s and MODEL.PIXEL_STD is %s: %s was scaled by their "
            "ratio",
            path, list(wanted.pixel_std), list(given.pixel_std), FIRST_WEIGHT,
        )  # fmt: skip
    tensors[FIRST_WEIGHT] = weight
    difference = torch.tensor(given.pixel_mean) - torch.tensor(wanted.pixel_mean)
    if difference.abs().max() > _MEAN_TOLERANCE:
        logger.warning(
            "%s was trained with pixel mean %s (%s), MODEL.PIXEL_MEAN is %s: set it to the former",
            path, list(wanted.pixel_mean), wanted.channel_order, list(given.pixel_mean),
        )  # fmt: skip
    return ImageFormat(given.channel_order, wanted.pixel_mean, given.pixel_std)
