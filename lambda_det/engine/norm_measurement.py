"""Statistics of norms that a file of weights has without them, measured on training images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from detectron2.utils import comm
from torch import Tensor, nn

from lambda_det.checkpoint.folded_norms import (
    MEASURE_NORMS_KEY,
    Statistics,
    at_equal_distances,
    measure,
)
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.engine.parallel import errors_shared
from lambda_det.errors import InputError, UnreadableImageError, key

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingImages:
    """Images of the training set, as a test gives them to the backbone.

    Attributes:
        images: the training set in detectron2's dataset format.
        number: how many of them are taken at most, at equal distances in their order.
        mapper: reads one and resizes it as for a test; its result has ``image`` (C, H, W).
        image_format: the mean and the deviation of the pixels that the backbone expects.
        skip: whether images that cannot be read are left out, with a warning.
    """

    images: Sequence[dict]
    number: int
    mapper: Callable[[dict], dict]
    image_format: ImageFormat
    skip: bool = False

    def __call__(self, backbone: nn.Module, norms: Sequence[str]) -> dict[str, Statistics]:
        """Measure, in process 0, what comes into norms; every process calls this and gets the same.

        Raises:
            InputError: an image cannot be read and ``skip`` is False, or none can be read.
        """
        found: dict[str, Statistics] = {}
        with errors_shared():
            if comm.is_main_process():
                found = self._measure(backbone, norms)
        return comm.all_gather(found)[0]

    def _measure(self, backbone: nn.Module, norms: Sequence[str]) -> dict[str, Statistics]:
        read = 0

        def inputs() -> Iterator[Tensor]:
            nonlocal read
            for pixels in self._pixels():
                read += 1
                yield pixels

        found = measure(backbone, norms, inputs())
        name = key("DATASETS.TRAIN")
        if not read:
            raise InputError(f"{key(MEASURE_NORMS_KEY)}={self.number}: no image of {name} is left")
        logger.info(
            "the statistics of %d norms, which %s has merged into weights and biases, were "
            "measured on %d images of %s (%s)",
            len(found), key("MODEL.WEIGHTS"), read, name, key(MEASURE_NORMS_KEY),
        )  # fmt: skip
        return found

    def _pixels(self) -> Iterator[Tensor]:
        """The normalised inputs (1, C, H, W)."""
        for image in at_equal_distances(self.images, self.number):
            try:
                pixels = self.mapper(image)["image"]
            except UnreadableImageError as error:
                if not self.skip:
                    raise
                logger.warning("%s: %s; it is left out", key(MEASURE_NORMS_KEY), error)
                continue
            yield self.image_format.normalised(pixels)
