"""A progress line that a person can follow."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from lambda_det.engine.run_state import WINDOW
from lambda_det.engine.trainer import SKIPPED

logger = logging.getLogger(__name__)

KEPT = 10 * WINDOW  # values of a metric, at least


class PeakGpuMemory(HookBase):
    """Writes ``peak_gpu_memory_mib``, the most memory that this process has held on its GPU."""

    def after_step(self) -> None:
        device = next(self.trainer.model.parameters()).device
        if device.type == "cuda" and (self.trainer.iter + 1) % WINDOW == 0:
            peak = torch.cuda.max_memory_allocated(device) / 2**20
            self.trainer.storage.put_scalar("peak_gpu_memory_mib", peak, smoothing_hint=False)


class ShortHistories(HookBase):
    """Keeps the last values of each metric. detectron2 keeps a million of each of them, which are
    2 KiB for every iteration of a Mask R-CNN."""

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % KEPT == 0:
            for history in self.trainer.storage.histories().values():
                del history.values()[:-KEPT]


class Writers(hooks.PeriodicWriter):
    """detectron2's hook, with writers that are made when the training begins: one that ends before
    leaves no empty file.

    Args:
        make: makes the writers.
    """

    def __init__(self, make: Callable[[], list[EventWriter]]) -> None:
        super().__init__([], period=WINDOW)
        self._make = make

    def before_train(self) -> None:
        self._writers = self._make()


class ProgressPrinter(EventWriter):
    """Logs ``iter 40/300 | eta 0:02:11 | 0.51 s/iter | loss 1.23 (...) | lr 0.02``.

    Args:
        max_iter: number of iterations of the run.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter

    def write(self) -> None:
        storage = get_event_storage()
        # detectron2 writes once more when training is over, also when it never began.
        if storage.iter < self._max_iter and storage.histories():
            logger.info(progress_line(storage, self._max_iter))


def progress_line(storage: EventStorage, max_iter: int) -> str:
    """The line for the storage's current iteration: times in seconds, losses as medians."""
    histories = storage.histories()
    done = storage.iter + 1
    parts = [f"iter {done}/{max_iter}"]
    if "time" in histories:
        seconds = histories["time"].median(WINDOW)
        eta = datetime.timedelta(seconds=int(seconds * (max_iter - done)))
        parts += [f"eta {eta}", f"{seconds:.2f} s/iter"]
    if "total_loss" in histories:
        terms = ", ".join(
            f"{name.removeprefix('loss_')} {history.median(WINDOW):.3f}"
            for name, history in histories.items()
            if "loss" in name and name != "total_loss"
        )
        parts.append(f"loss {histories['total_loss'].median(WINDOW):.3f} ({terms})")
    if "lr" in histories:
        parts.append(f"lr {histories['lr'].latest():.3g}")
    if SKIPPED in histories:
        parts.append(f"left out {histories[SKIPPED].latest():.0f}")
    return " | ".join(parts)
