"""Data loaders: detectron2's batches from our mapper; those of a training in an exact order."""

from __future__ import annotations

import atexit
import functools
import itertools
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    get_detection_dataset_dicts,
    samplers,
)
from detectron2.utils import comm
from torch import Generator as RandomGenerator
from torch.utils.data import DataLoader

from lambda_det.data.images.image_checks import usable_images
from lambda_det.data.mapper import LambdaDatasetMapper
from lambda_det.data.order import KeyStream, MakeSampler, sampler_maker, wide_images
from lambda_det.data.skipping import Mapper, ReadableImages, SeededImages, SkippingImages, Skips
from lambda_det.data.training_images import training_images
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

GRACE_S = 30
"""Seconds that a worker continues after a SIGTERM, so that the training can end its iteration."""

_running: weakref.WeakSet[TrainingLoader] = weakref.WeakSet()


class TrainingLoader:
    """Endless batches (lists of mapped images) of this process.

    Iteration starts with batch number ``start``. ``seed`` and ``start`` may be set until the first
    batch is read, as a resumed run does.

    Args:
        dataset: images in detectron2's dataset format.
        mapper: converts one image to the input of the model. If it draws random numbers, it must
            draw them from numpy's, Python's or PyTorch's global generator.
        total_batch_size: images per batch of all processes together.
        make_sampler: takes a seed and returns an endless stream of image indices; None takes
            detectron2's ``TrainingSampler``.
        aspect_ratio_grouping: whether the images of a batch are either all wider than high or all
            not.
        num_workers: number of worker processes that map images; 0 maps them in this process.
        seed: seed of the order and of the augmentations; if it is negative, a random one is taken.
        skip_unreadable: whether the next image that can be read takes the place of one that cannot;
            one warning names each such file.

    Raises:
        InputError: ``total_batch_size`` is not a multiple of the number of processes.
    """

    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: Mapper,
        total_batch_size: int,
        *,
        make_sampler: MakeSampler | None = None,
        aspect_ratio_grouping: bool = True,
        num_workers: int = 0,
        seed: int = -1,
        skip_unreadable: bool = False,
    ) -> None:
        self.batch_size = _share_of_batch(total_batch_size)
        self.seed = seed if seed >= 0 else comm.shared_random_seed()
        self.start, self.num_images = 0, len(dataset)
        self.images: Sequence[dict] = DatasetFromList(dataset, copy=False)
        self._dataset = SeededImages(self.images, mapper, skip=skip_unreadable)
        self._skips = Skips("the next image that can be read takes its place")
        self._wide = wide_images(dataset) if aspect_ratio_grouping else None
        self._make_sampler = make_sampler or functools.partial(
            samplers.TrainingSampler, len(dataset), True
        )
        self._num_workers = num_workers
        self._running: Generator | None = None

    def __iter__(self) -> Generator[list[dict], None, None]:
        self._running = self._batches()
        _running.add(self)
        return self._running

    def close(self) -> None:
        """End the worker processes."""
        if self._running is not None:
            self._running.close()

    def _batches(self) -> Generator[list[dict], None, None]:
        keys = KeyStream(
            self._make_sampler, self.batch_size, self._wide, seed=self.seed, start=self.start
        )
        single = iter(
            DataLoader(
                self._dataset,
                sampler=keys,
                batch_size=None,  # workers map single images, as in detectron2
                num_workers=self._num_workers,
                collate_fn=_as_it_is,
                worker_init_fn=finish_before_ending,
                # Its own generator, so that the random numbers of the model do not change.
                generator=RandomGenerator(),
            )
        )
        while True:
            yield [self._skips.of(next(single)) for _ in range(self.batch_size)]


training_loader = TrainingLoader
"""The name that LazyConfigs call it by."""


@atexit.register
def _end_workers() -> None:
    """End the workers of loaders that a script still has when it ends.

    Python would send them SIGTERM and wait for them, and :func:`finish_before_ending` delays that.
    """
    for loader in list(_running):
        loader.close()


def build_train_loader(cfg: CfgNode, *, seed: int | None = None) -> TrainingLoader:
    """Build an endless loader over ``DATASETS.TRAIN`` that yields lists of mapped images.

    Args:
        cfg: the config, after :func:`~lambda_det.data.configure_datasets`.
        seed: seed of the order and of the augmentations; None takes ``cfg.SEED``, and a random one
            if that is negative.

    Raises:
        InputError: ``SOLVER.IMS_PER_BATCH`` is not a multiple of the number of processes,
            ``DATALOADER.SAMPLER_TRAIN`` is unknown, or the training set fails a check of
            :func:`~lambda_det.data.training_images.training_images`.
    """
    _share_of_batch(cfg.SOLVER.IMS_PER_BATCH)  # before the images are read
    images = training_images(cfg)
    return TrainingLoader(
        images,
        LambdaDatasetMapper(cfg, True),
        cfg.SOLVER.IMS_PER_BATCH,
        make_sampler=sampler_maker(cfg, images),
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=cfg.SEED if seed is None else seed,
        skip_unreadable=cfg.DATALOADER.SKIP_UNREADABLE,
    )


def _share_of_batch(total: int) -> int:
    world = comm.get_world_size()
    if total < 1 or total % world:
        raise InputError(
            f"{key('SOLVER.IMS_PER_BATCH')}={total}: expected a multiple of the number of "
            f"processes, {world}"
        )
    return total // world


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """Build a loader that yields each image of ``dataset_name`` once, in order, in lists of one.

    Raises:
        InputError: an image file cannot be used, see
            :func:`~lambda_det.data.images.image_checks.usable_images`.
    """
    return detection_test_loader(
        get_detection_dataset_dicts([dataset_name], filter_empty=False),
        LambdaDatasetMapper(cfg, False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        skip_unreadable=cfg.DATALOADER.SKIP_UNREADABLE,
        name=dataset_name,
    )


def detection_test_loader(
    dataset: Sequence[dict],
    mapper: Mapper,
    *,
    num_workers: int = 0,
    skip_unreadable: bool = False,
    name: str = "",
) -> Iterable[list[dict]]:
    """Build the loader of :func:`build_test_loader` from explicit arguments, for a LazyConfig.

    The image files are checked if ``mapper`` is a :class:`LambdaDatasetMapper` and ``dataset`` a
    list.

    Args:
        dataset: images in detectron2's dataset format.
        mapper: converts one image to the input of the model.
        num_workers: number of worker processes that map images; 0 maps them in this process.
        skip_unreadable: whether images that cannot be read are left out.
        name: name of the dataset, for messages.
    """
    if isinstance(mapper, LambdaDatasetMapper) and isinstance(dataset, list):
        dataset = usable_images(
            dataset,
            key("DATASETS.TEST") + (f" {name!r}" if name else ""),
            mapper.reading,
            skip=skip_unreadable,
            workers=num_workers,
            consequence="; they have no detections, and their objects count as not found",
        )
    mapped: dict = {"dataset": dataset, "mapper": mapper}
    if skip_unreadable:
        # detectron2's dataset puts any other image, which then counts twice, into the place of one
        # that is None.
        images = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
        mapped = {"dataset": SkippingImages(images, mapper), "mapper": None}
    loader = build_detection_test_loader(**mapped, num_workers=num_workers)
    loader.worker_init_fn = finish_before_ending
    return ReadableImages(loader) if skip_unreadable else loader


class FirstBatches:
    """The first batches of a test loader.

    Args:
        loader: the test loader.
        number: largest number of batches.
    """

    def __init__(self, loader: DataLoader, number: int) -> None:
        self._loader, self._number = loader, min(number, len(loader))

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator:
        return itertools.islice(self._loader, self._number)


def finish_before_ending(worker: int) -> None:
    """``worker_init_fn`` of a ``DataLoader``: keep a worker alive for a while after a signal.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach the workers too, but the training still
    needs them to finish its iteration. The worker ignores SIGINT, and continues for
    :data:`GRACE_S` seconds after a SIGTERM.

    Args:
        worker: number of the worker (not used).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A mask would cover this thread only, and PyTorch has started others by now. A handler covers
    # all; since this thread may be busy in C code, where no Python handler runs, a thread reads
    # the number of the signal from a pipe.
    numbers, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.siginterrupt(signal.SIGTERM, False)  # what is being read goes on
    threading.Thread(target=_end_in_time, args=(numbers,), daemon=True).start()


def _end_in_time(numbers: int) -> None:
    """Wait until the pipe has the number of SIGTERM, and end the process GRACE_S later."""
    while os.read(numbers, 1) != bytes([signal.SIGTERM]):
        pass
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _as_it_is(item: dict) -> dict:
    return item
