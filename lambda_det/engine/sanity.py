"""Before a long run: a short way through all that comes later, so that what is wrong shows now."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator

import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from lambda_det.data.loaders import Mapper, TrainingLoader
from lambda_det.data.mapper import LambdaDatasetMapper
from lambda_det.engine.accumulation import split
from lambda_det.engine.launch import bare
from lambda_det.engine.run_state import restore_running_means, running_means
from lambda_det.engine.setup import precision
from lambda_det.errors import InputError
from lambda_det.layers.precision import autocast_to
from lambda_det.randomness import seeded

logger = logging.getLogger(__name__)

FOLDER = ".sanity_pass"
"""In OUTPUT_DIR, for as long as the pass takes; a name that no run of a user's has."""

CHECKPOINTS = 2  # that the disk must have room for: one is written beside the one before


def sanity_pass(trainer: TrainerBase) -> None:
    """Write a checkpoint, learn from a batch without an update, and evaluate a few images of every
    test set: ``TEST.SANITY_IMAGES``, without which nothing is done.

    The batch is the first one of the training with its images at the largest size of the config.
    The run that follows is the same to the last bit: weights, running statistics, random states and
    the order of the data are as before.

    Args:
        trainer: before its first iteration.

    Raises:
        InputError: whatever would have stopped the training or its evaluation; or the disk has no
            room for two checkpoints.
    """
    if not (images := trainer.cfg.TEST.SANITY_IMAGES):
        return
    start, folder = time.perf_counter(), os.path.join(trainer.cfg.OUTPUT_DIR, FOLDER)
    device = next(trainer.model.parameters()).device
    try:
        with _as_it_was(trainer.model, device), EventStorage(0):
            if comm.is_main_process():
                _check_disk(trainer, folder)
            _learn(trainer, device)
            for name in trainer.test_sets:
                _evaluate(trainer, name, images, folder)
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
        if comm.is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
    logger.info(
        "TEST.SANITY_IMAGES %d: a checkpoint, a batch and the evaluation went well (%.0f s)",
        images, time.perf_counter() - start,
    )  # fmt: skip


def largest_mapper(cfg: CfgNode) -> Mapper:
    """The training's mapper with all images at the largest size of the config."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TRAIN = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    return LambdaDatasetMapper(cfg, True)


def _check_disk(trainer: TrainerBase, folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUTPUT_DIR: {folder} cannot be made ({error.strerror})") from error
    path = os.path.join(folder, "model.pth")
    content = {"model": bare(trainer.model).state_dict(), "trainer": trainer.state_dict()}
    trainer.checkpointer.write(content, path)
    size = os.path.getsize(path)
    os.unlink(path)
    # Not in it yet: SGD's momentum and the average.
    size += _bytes(p for p in trainer.model.parameters() if p.requires_grad)
    size += _bytes(content["model"].values()) if trainer.cfg.SOLVER.EMA_DECAY else 0
    free = shutil.disk_usage(folder).free
    if free < CHECKPOINTS * size:
        raise InputError(
            f"OUTPUT_DIR={trainer.cfg.OUTPUT_DIR!r}: {free / 2**20:.0f} MiB are free on this disk; "
            f"{CHECKPOINTS} checkpoints of {size / 2**20:.0f} MiB must fit"
        )


def _learn(trainer: TrainerBase, device: torch.device) -> None:
    if not isinstance(trainer.data_loader, TrainingLoader):
        return  # its order might not come back
    cfg = trainer.cfg
    batch = trainer.data_loader.first_batch(trainer.build_largest_mapper())
    model = bare(trainer.model)  # DistributedDataParallel remembers what it did first
    for part in split(batch, cfg.SOLVER.ACCUMULATE):
        with autocast_to(precision(cfg), device.type):
            losses = model(part)
        sum(losses.values()).backward()


def _evaluate(trainer: TrainerBase, name: str, images: int, folder: str) -> None:
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = folder
    loader = trainer.build_test_loader(cfg, name)
    first = _First(loader, -(-images // comm.get_world_size()))
    zero = logging.getLogger("lambda_det.evaluation.diagnosis")  # a few images' AP says nothing
    was, zero.disabled = zero.disabled, True
    try:
        inference_on_dataset(trainer.model, first, trainer.build_evaluator(cfg, name))
    finally:
        zero.disabled = was
    comm.synchronize()


class _First:
    """The first batches of a loader."""

    def __init__(self, loader: Iterable, number: int) -> None:
        self._loader, self._number = loader, min(number, len(loader))

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator:
        return itertools.islice(self._loader, self._number)


@contextlib.contextmanager
def _as_it_was(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give back running statistics, running means and the states of all generators."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    means = running_means(model)
    devices = [device] if device.type == "cuda" else []
    with seeded(0), torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)
            restore_running_means(model, means)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
