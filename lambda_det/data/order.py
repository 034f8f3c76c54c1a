"""The order of a training's images: an endless stream that depends on a seed and can be resumed.

The order is detectron2's: its samplers give the indices, and the images of a batch are either all
wider than high or all not (``DATALOADER.ASPECT_RATIO_GROUPING``). The order depends on the json
alone, so that a resumed run can skip batches without reading their images. The seed of an image's
augmentation depends on its place in the stream, not on the process or worker that reads it.
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
"""(index of an image, seed of its augmentation)."""

MakeSampler = Callable[[int], Iterable[int]]
"""A function that takes a seed and returns this process's share of an endless index stream."""


class KeyStream(Sampler):
    """The keys of this process's images, one by one, in the order of their batches.

    Args:
        make_sampler: makes the stream of indices.
        batch_size: images per batch of this process.
        wide: (images,) bool, whether each image is wider than high; a batch then holds images of
            one kind. None does not group them.
        seed: seed of the order and of the augmentations.
        start: number of batches to skip.
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
        """Yield batches: lists of (index, place in the stream of all processes)."""
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
    """(images,) bool: whether each image is wider than high."""
    return np.fromiter((d["width"] > d["height"] for d in images), dtype=bool, count=len(images))


def sampler_maker(cfg: CfgNode, images: Sequence[Mapping]) -> MakeSampler:
    """Return a function that makes the sampler of ``DATALOADER.SAMPLER_TRAIN`` from a seed.

    Args:
        cfg: the config.
        images: the training images in detectron2's dataset format.

    Raises:
        InputError: the sampler is not one of the two whose order depends on a seed alone.
    """
    node, size = cfg.DATALOADER, len(images)
    if node.SAMPLER_TRAIN == "TrainingSampler":
        return lambda seed: samplers.TrainingSampler(size, seed=seed)
    if node.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        sampler = samplers.RepeatFactorTrainingSampler
        # REPEAT_SQRT exists in later versions of detectron2 only.
        options = {"sqrt": node.REPEAT_SQRT} if "REPEAT_SQRT" in node else {}
        factors = sampler.repeat_factors_from_category_frequency(
            images, node.REPEAT_THRESHOLD, **options
        )
        return lambda seed: sampler(factors, seed=seed)
    raise InputError(
        f"DATALOADER.SAMPLER_TRAIN={node.SAMPLER_TRAIN!r}: 'TrainingSampler' or "
        "'RepeatFactorTrainingSampler' is allowed"
    )
