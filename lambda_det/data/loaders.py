"""Data loaders: detectron2's batches with our mapper, the training's in an exact order."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_test_loader, samplers
from detectron2.utils import comm
from torch import Generator as RandomGenerator
from torch.utils.data import DataLoader, Dataset

from lambda_det.data.mapper import LambdaDatasetMapper
from lambda_det.data.order import Key, KeyStream, MakeSampler, sampler_maker, wide_images
from lambda_det.data.training_images import training_images
from lambda_det.errors import InputError
from lambda_det.randomness import seeded

logger = logging.getLogger(__name__)

Mapper = Callable[[dict], dict]

GRACE_S = 30
"""Seconds that a worker goes on for after a SIGTERM, so that the iteration can be finished."""


class TrainingLoader:
    """Endless batches (lists of mapped images) of this process.

    The order starts at the first batch that is asked for: until then ``seed`` and ``start`` may be
    changed, as a resumed run does.

    Args:
        images: in detectron2's dataset format.
        mapper: one image -> what the model takes; its randomness is numpy's, Python's and PyTorch's
            global generators'.
        make_sampler: seed -> endless indices.
        batch_size: images per batch of this process.
        group_by_aspect: whether a batch holds images of one kind, wider than high or not.
        num_workers: processes that map images; 0 is this one.
        seed: of order and augmentations.
    """

    def __init__(
        self,
        images: Sequence[dict],
        mapper: Mapper,
        make_sampler: MakeSampler,
        *,
        batch_size: int,
        group_by_aspect: bool,
        num_workers: int,
        seed: int,
    ) -> None:
        self.seed, self.start, self.num_images = seed, 0, len(images)
        self._dataset = _SeededImages(DatasetFromList(images, copy=False), mapper)
        self._wide = wide_images(images) if group_by_aspect else None
        self._make_sampler, self._batch_size = make_sampler, batch_size
        self._num_workers = num_workers
        self._running: Generator | None = None

    def __iter__(self) -> Generator[list[dict], None, None]:
        self._running = self._batches()
        return self._running

    def first_batch(self, mapper: Mapper) -> list[dict]:
        """The batch that comes first, mapped here and in another way; it will still come first."""
        keys = KeyStream(
            self._make_sampler, self._batch_size, self._wide, seed=self.seed, start=self.start
        )
        images = _SeededImages(self._dataset.images, mapper)
        return [images[key] for key in itertools.islice(keys, self._batch_size)]

    def close(self) -> None:
        """End the worker processes."""
        if self._running is not None:
            self._running.close()

    def _batches(self) -> Generator[list[dict], None, None]:
        keys = KeyStream(
            self._make_sampler, self._batch_size, self._wide, seed=self.seed, start=self.start
        )
        single = iter(
            DataLoader(
                self._dataset,
                sampler=keys,
                batch_size=None,  # single images are shared out among the workers, as in detectron2
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                worker_init_fn=finish_before_ending,
                generator=RandomGenerator(),  # of its own: the model's draws stay what they are
            )
        )
        while True:
            yield [next(single) for _ in range(self._batch_size)]


class _SeededImages(Dataset):
    """Mapped images by (index, seed); the seed alone decides the augmentation."""

    def __init__(self, images: Dataset, mapper: Mapper) -> None:
        self.images, self._mapper = images, mapper

    def __getitem__(self, key: Key) -> dict:
        index, seed = key
        with seeded(seed):
            return self._mapper(self.images[index])


def build_train_loader(cfg: CfgNode, *, seed: int | None = None) -> TrainingLoader:
    """An endless loader over ``DATASETS.TRAIN`` that gives lists of mapped images.

    Args:
        cfg: the config.
        seed: of order and augmentations; None = ``SEED``, or one that is drawn if that is negative.

    Raises:
        InputError: ``SOLVER.IMS_PER_BATCH`` is not a multiple of the number of processes, or
            ``DATALOADER.SAMPLER_TRAIN`` is unknown.
    """
    _share_of_batch(cfg.SOLVER.IMS_PER_BATCH)  # before the images are read
    images = training_images(cfg)
    return training_loader(
        images,
        LambdaDatasetMapper(cfg, True),
        cfg.SOLVER.IMS_PER_BATCH,
        make_sampler=sampler_maker(cfg, images),
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=cfg.SEED if seed is None else seed,
    )


def training_loader(
    dataset: Sequence[dict],
    mapper: Mapper,
    total_batch_size: int,
    *,
    make_sampler: MakeSampler | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int = -1,
) -> TrainingLoader:
    """An endless loader of this process's share, from explicit arguments, as a LazyConfig has them.

    Args:
        dataset: images in detectron2's dataset format.
        mapper: one image -> what the model takes.
        total_batch_size: images per batch of all processes.
        make_sampler: seed -> endless indices; None = detectron2's ``TrainingSampler``.
        aspect_ratio_grouping: whether a batch holds images of one kind, wider than high or not.
        num_workers: processes that map images; 0 is this one.
        seed: of order and augmentations; one that is drawn if it is negative.

    Raises:
        InputError: ``total_batch_size`` is not a multiple of the number of processes.
    """
    return TrainingLoader(
        dataset,
        mapper,
        make_sampler or functools.partial(samplers.TrainingSampler, len(dataset), True),
        batch_size=_share_of_batch(total_batch_size),
        group_by_aspect=aspect_ratio_grouping,
        num_workers=num_workers,
        seed=seed if seed >= 0 else comm.shared_random_seed(),
    )


def _share_of_batch(total: int) -> int:
    world = comm.get_world_size()
    if total < 1 or total % world:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH={total}: expected a multiple of the number of processes, {world}"
        )
    return total // world


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """A loader that gives every image of ``dataset_name`` once, in order, in lists of one."""
    mapper = LambdaDatasetMapper(cfg, False)
    loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    return _finishing(loader)


def detection_test_loader(
    dataset: Sequence[dict], mapper: Mapper, *, num_workers: int = 0
) -> Iterable[list[dict]]:
    """As :func:`build_test_loader`, from explicit arguments, as a LazyConfig has them."""
    return _finishing(build_detection_test_loader(dataset, mapper=mapper, num_workers=num_workers))


def _finishing(loader: DataLoader) -> DataLoader:
    loader.worker_init_fn = finish_before_ending
    return loader


def finish_before_ending(worker: int) -> None:
    """``worker_init_fn``: leave it to the training what a signal means.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach the workers too; a training that is to
    finish its iteration needs them meanwhile.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_in_time, args=(os.getppid(),), daemon=True).start()


def _end_in_time(training: int) -> None:
    """Wait for SIGTERM. That of the training itself means at once, anybody else's in a while."""
    sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
    end = time.monotonic() + GRACE_S
    while sender != training and (left := end - time.monotonic()) > 0:
        again = signal.sigtimedwait({signal.SIGTERM}, left)
        sender = sender if again is None else again.si_pid
    os.kill(os.getpid(), signal.SIGKILL)


def _as_it_is(item: dict) -> dict:
    return item
