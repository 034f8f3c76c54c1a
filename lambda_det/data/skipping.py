"""Image files that break during a run: ``DATALOADER.SKIP_UNREADABLE``.

The process that maps an image may be a worker. It hands the reasons on to the process of the run,
so that each file has one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from lambda_det.data.order import Key
from lambda_det.errors import InputError, UnreadableImageError
from lambda_det.randomness import seeded

logger = logging.getLogger(__name__)

Mapper = Callable[[dict], dict]


@dataclass(frozen=True)
class _Skipped:
    """What a dataset gives after it met files that cannot be read.

    Attributes:
        reasons: a line for each of them.
        item: the image that takes their place; None = none does.
    """

    reasons: Sequence[str]
    item: Any = None


class SeededImages(Dataset):
    """A dataset of mapped images; its key is (index, seed), and the seed fixes the augmentation.

    Args:
        images: images in detectron2's dataset format.
        mapper: converts one image to the input of the model.
        skip: whether the next image that can be read takes the place of one that cannot. It is the
            same one in every run as long as the same files can be read.
    """

    def __init__(self, images: Sequence[dict], mapper: Mapper, *, skip: bool = False) -> None:
        self.images, self._mapper, self._skip = images, mapper, skip

    def __getitem__(self, key: Key) -> Any:
        index, seed = key
        reasons: list[str] = []
        for step in range(len(self.images)):
            try:
                with seeded(seed):
                    mapped = self._mapper(self.images[(index + step) % len(self.images)])
            except UnreadableImageError as error:
                if not self._skip:
                    raise
                reasons.append(str(error))
            else:
                return _Skipped(reasons, mapped) if reasons else mapped
        raise InputError(f"none of the {len(self.images)} images can be read; {reasons[0]}")


class SkippingImages(Dataset):
    """A dataset of mapped images, for :class:`ReadableImages`, with those that cannot be read.

    Args:
        images: images in detectron2's dataset format.
        mapper: converts one image to the input of the model.
    """

    def __init__(self, images: Sequence[dict], mapper: Mapper) -> None:
        self._images, self._mapper = images, mapper

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._mapper(self._images[index])
        except UnreadableImageError as error:
            return _Skipped([str(error)])


class Skips:
    """Warns once of each file that is skipped, and counts them.

    Args:
        consequence: what the warning says of the image.
    """

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence
        self._seen: set[str] = set()

    def of(self, item: Any) -> Any:
        """Return the image of what a dataset gave; None if there is none."""
        if not isinstance(item, _Skipped):
            return item
        for reason in item.reasons:
            if reason not in self._seen:
                self._seen.add(reason)
                logger.warning(
                    "%s; %s (skipped files: %d)", reason, self._consequence, len(self._seen)
                )
        return item.item


class ReadableImages:
    """The batches of a loader of :class:`SkippingImages`, without images that cannot be read.

    A batch that has no other is left out, so that there may be fewer of them than ``len`` says.

    Args:
        loader: gives lists of images.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader
        self._skips = Skips("it has no detections, and its objects count as not found")

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self._loader:
            images = [image for item in batch if (image := self._skips.of(item)) is not None]
            if images:
                yield images
