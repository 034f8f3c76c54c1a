"""The order of a training's images: endless, a function of a seed, taken up at any batch.

It is detectron2's: its samplers' stream of indices, and batches of images that are either wider
than high or not (``DATALOADER.ASPECT_RATIO_GROUPING``). Both follow from the json alone, so that a
resumed run replays them without reading an image. An image's augmentation follows from its place in
the stream, whichever process or worker reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import samplers
from detectron2.utils import comm
from torch.utils.data import Sampler

from lambda_det.errors import InputError
from lambda_det.randomness import IMAGE, ORDER, seed_of

Key = tuple[int, int]
"""Index of an image and the seed of its augmentation."""

MakeSampler = Callable[[int], Iterable[int]]
"""Seed -> this process's share of an endless stream of indices."""


class KeyStream(Sampler):
    """This process's images from a batch on, one by one in the order of their batches.

    Args:
        make_sampler: what the indices come from.
        batch_size: images per batch of this process.
        wide: whether each image is wider than high, to have batches of one kind; None mixes them.
        seed: of order and augmentations.
        start: batches to leave out.
    """

    def __init__(
        self,
        make_sampler: MakeSampler,
        batch_size: int,
        wide: np.ndarray | None,
        *,
        seed: int,
        start: int = 0,
    ) -> None:
        self._make_sampler, self._batch_size, self._wide = make_sampler, batch_size, wide
        self._seed, self._start = seed, start

    def __iter__(self) -> Iterator[Key]:
        for batch in itertools.islice(self._batches(), self._start, None):
            for index, place in batch:
                yield index, seed_of(IMAGE, self._seed, place)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of indices and their places in the stream of all processes."""
        rank, world = comm.get_rank(), comm.get_world_size()
        kinds: tuple[list, list] = ([], [])
        stream = self._make_sampler(seed_of(ORDER, self._seed))
        for number, index in enumerate(stream):
            kind = 0 if self._wide is None else int(self._wide[index])
            kinds[kind].append((int(index), number * world + rank))
            if len(kinds[kind]) == self._batch_size:
                yield kinds[kind][:]
                kinds[kind].clear()


def wide_images(images: Sequence[Mapping]) -> np.ndarray:
    """Whether each image is wider than high: bool, one for each image."""
    return np.fromiter((d["width"] > d["height"] for d in images), dtype=bool, count=len(images))


def sampler_maker(cfg: CfgNode, images: Sequence[Mapping]) -> MakeSampler:
    """The sampler that ``DATALOADER.SAMPLER_TRAIN`` names.

    Raises:
        InputError: there is none of this name, or its order cannot be seeded.
    """
    node, size = cfg.DATALOADER, len(images)
    if node.SAMPLER_TRAIN == "TrainingSampler":
        return lambda seed: samplers.TrainingSampler(size, seed=seed)
    if node.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        sampler = samplers.RepeatFactorTrainingSampler
        # Later versions of detectron2 let the root be left out.
        options = {"sqrt": node.REPEAT_SQRT} if "REPEAT_SQRT" in node else {}
        factors = sampler.repeat_factors_from_category_frequency(
            images, node.REPEAT_THRESHOLD, **options
        )
        return lambda seed: sampler(factors, seed=seed)
    raise InputError(
        f"DATALOADER.SAMPLER_TRAIN={node.SAMPLER_TRAIN!r}: 'TrainingSampler' or "
        "'RepeatFactorTrainingSampler' is allowed"
    )
