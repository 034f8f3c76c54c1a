"""The format of the images that a network was trained on, and fitting weights to a config's."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from lambda_det.errors import key

logger = logging.getLogger(__name__)

FIRST_WEIGHT = "stem.conv1.weight"
_STD_TOLERANCE = 1e-3  # relative difference
_MEAN_TOLERANCE = 0.5  # absolute difference; pixels are 0 to 255


@dataclass(frozen=True)
class ImageFormat:
    """The format of a network's input images.

    Attributes:
        channel_order: ``"RGB"``, ``"BGR"`` or another INPUT.FORMAT of detectron2.
        pixel_mean: mean of each channel in this order, for pixels of 0 to 255. It is subtracted.
        pixel_std: standard deviation of each channel, by which the difference is divided.
    """

    channel_order: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]

    def __str__(self) -> str:
        mean, std = (
            "[" + ", ".join(f"{value:g}" for value in values) + "]"
            for values in (self.pixel_mean, self.pixel_std)
        )
        return f"{self.channel_order} images, mean {mean}, standard deviation {std}"

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> ImageFormat:
        """Return the format that ``dataclasses.asdict``, or its JSON, described.

        Raises:
            KeyError: an entry is missing.
            TypeError: an entry is not a list of numbers.
            ValueError: an entry does not have three finite numbers, or a standard deviation is
                not positive.
        """
        if not isinstance(values, Mapping):
            raise TypeError("expected entries by name")
        try:
            mean, std = (tuple(map(float, values[key])) for key in ("pixel_mean", "pixel_std"))
        except OverflowError as error:
            raise ValueError("expected finite numbers") from error
        finite = all(map(math.isfinite, (*mean, *std)))
        if not len(mean) == len(std) == 3 or not finite or not all(value > 0 for value in std):
            raise ValueError("expected three means and three positive standard deviations")
        return cls(str(values["channel_order"]), mean, std)

    @classmethod
    def from_unit_range(cls, mean: Mapping | tuple, std: Mapping | tuple) -> ImageFormat:
        """Return the RGB format for a mean and standard deviation of pixels of 0 to 1 (timm's)."""
        return cls("RGB", *(tuple(round(255 * v, 4) for v in values) for values in (mean, std)))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ImageFormat:
        """Return the format of the images that a detector of ``cfg`` gives to its backbone."""
        model = cfg.MODEL
        return cls(cfg.INPUT.FORMAT, tuple(model.PIXEL_MEAN), tuple(model.PIXEL_STD))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what a network gets of an image: float32 (1, C, H, W) of pixels (C, H, W)."""
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (self.pixel_mean, self.pixel_std)
        )
        return ((pixels.float() - mean) / std)[None]

    def in_order(self, channel_order: str) -> ImageFormat:
        """Return this format with the channels in the given order, ``"RGB"`` or ``"BGR"``."""
        if channel_order == self.channel_order:
            return self
        return ImageFormat(channel_order, self.pixel_mean[::-1], self.pixel_std[::-1])


IMAGENET = ImageFormat("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Format of torchvision's networks, timm's resnetrs and lambda networks, and d-li14's networks."""

MSRA = ImageFormat("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
"""Format of the MSRA ResNets, which were trained in Caffe. detectron2's defaults match it."""


def fit_to_config(
    tensors: dict[str, Tensor], trained_on: ImageFormat | None, given: ImageFormat, path: str
) -> ImageFormat | None:
    """Change the first convolution so that it takes the config's images, and warn of the rest.

    If the channel order differs, the input channels of the weight are exchanged; if the standard
    deviation differs, the weight is multiplied by the ratio. Both changes are exact. A different
    mean only leads to a warning: to correct it one would have to add a constant to the image,
    which the zero padding of the convolution does not get.

    Args:
        tensors: of the bare backbone; the first convolution's weight is replaced.
        trained_on: the images that the network was trained on; None = unknown, then nothing is
            compared.
        given: the images of the config.
        path: the file of weights, for the messages.

    Returns:
        The images that the changed tensors expect; None = unknown.
    """
    if trained_on is None:
        logger.info(
            "%s: the format of the images that it was trained on is unknown, so the config's (%s) "
            "was not compared: check that %s, %s, %s and %s are those of its training "
            "(detectron2's defaults are %s and STRIDE_IN_1X1 True)",
            path, given, key("INPUT.FORMAT"), key("MODEL.PIXEL_MEAN"), key("MODEL.PIXEL_STD"),
            key("MODEL.LAMBDA_RESNET.STRIDE_IN_1X1"), MSRA,
        )  # fmt: skip
        return None
    weight = tensors.get(FIRST_WEIGHT)
    channels = len(trained_on.pixel_std)
    if (
        weight is None
        or weight.dim() != 4
        or not weight.shape[1] == len(given.pixel_std) == channels
    ):
        return trained_on  # the comparison of shapes reports another number of channels
    orders = {trained_on.channel_order, given.channel_order}
    if len(orders) > 1 and orders - {"RGB", "BGR"}:
        logger.warning(
            "%s was trained on %s, but %s is %r",
            path,
            trained_on,
            key("INPUT.FORMAT"),
            given.channel_order,
        )
        return trained_on
    wanted = trained_on.in_order(given.channel_order)
    if wanted is not trained_on:
        weight = weight.flip(1)
        logger.info(
            "%s was trained on %s images, but %s is %r: the input channels of %s were exchanged",
            path, trained_on.channel_order, key("INPUT.FORMAT"), given.channel_order, FIRST_WEIGHT,
        )  # fmt: skip
    scale = torch.tensor(given.pixel_std) / torch.tensor(wanted.pixel_std)
    if (scale - 1).abs().max() > _STD_TOLERANCE:
        # In half precision the product would be rounded.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        weight = weight.to(dtype) * scale.to(dtype)[:, None, None]
        logger.info(
            "%s was trained with pixel std %s, but %s is %s: %s was multiplied by their ratio",
            path, list(wanted.pixel_std), key("MODEL.PIXEL_STD"), list(given.pixel_std),
            FIRST_WEIGHT,
        )  # fmt: skip
    tensors[FIRST_WEIGHT] = weight
    difference = torch.tensor(given.pixel_mean) - torch.tensor(wanted.pixel_mean)
    if difference.abs().max() > _MEAN_TOLERANCE:
        logger.warning(
            "%s was trained with pixel mean %s (%s), but %s is %s; set it to %s",
            path, list(wanted.pixel_mean), wanted.channel_order, key("MODEL.PIXEL_MEAN"),
            list(given.pixel_mean), list(wanted.pixel_mean),
        )  # fmt: skip
    return ImageFormat(given.channel_order, wanted.pixel_mean, given.pixel_std)
