"""What a resumed run needs besides weights, optimiser and schedule.

No generator's state is among it: the randomness of an iteration follows from the run's seed and the
iteration, that of an image from the seed and its place in the order (:mod:`lambda_det.randomness`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.configs import changed_values
from lambda_det.engine.parallel import bare
from lambda_det.engine.parts import Parts, RunOptions
from lambda_det.randomness import ITERATION, seed_everything

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
WINDOW = 20  # iterations that detectron2 takes medians over, and after which it writes

# Keys that a resumed run may change and still be the same run.
_WITHOUT_EFFECT = (
    "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS", "DATASETS.COCO_FOLDER", "DATASETS.STRICT",
    "DATASETS.TEST", "MODEL.WEIGHTS", "OUTPUT_DIR", "SOLVER.CHECKPOINT_", "TEST.", "VERSION",
    "VIS_PERIOD", "WANDB.", "PRETRAIN.CHECKPOINT_PERIOD", "PRETRAIN.EVAL_PERIOD",
    "dataloader.test.", "dataloader.evaluator.", "dataloader.train.num_workers",
    "train.checkpointer.", "train.coco_folder", "train.strict", "train.eval_period",
    "train.best_metric", "train.init_checkpoint", "train.output_dir", "train.wandb.",
)  # fmt: skip
# Times are this process's own.
_TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
# Measured in the last iteration only; a longer run measures them at its own end.
_AT_THE_END = ("last_norm/", "embedding_rms/")
# detectron2's dense detectors keep this running mean as a number and not as a buffer.
_RUNNING_MEAN = "loss_normalizer"


class RunState(HookBase):
    """Seeds every iteration, and lets a resumed run continue as if nobody had disturbed it.

    The first hook of a run, so that what the others draw depends on the iteration, too.

    Args:
        parts: of the run; its config and the loader of its PreciseBN.
        options: of the run.
    """

    def __init__(self, parts: Parts, options: RunOptions) -> None:
        self._parts, self._options, self._seed = parts, options, options.seed
        self._saved: Mapping | None = None
        self._running_means: list[dict[str, float]] = []

    @property
    def _loader(self) -> Any:
        """The training's loader, if it can start with any batch; else None."""
        loader = self.trainer.data_loader
        return loader if _can_start_anywhere(loader) else None

    @property
    def _seed_now(self) -> int:
        return self._seed if self._loader is None else self._loader.seed

    def before_train(self) -> None:
        if not self.trainer.start_iter:
            return
        if self._loader is None:
            logger.warning(
                "not an exact resume: the loader has no 'seed' and 'start'; images come in a new "
                "order"
            )
        if self._saved is None:
            logger.warning(
                "not an exact resume: the checkpoint holds no seed; images come in a new order"
            )
        else:
            self._warn_of_changes(self._saved)
            restore_running_means(self.trainer.model, _own(self._saved["running_means"]))
            restore_metrics(self.trainer.storage, self._saved["metrics"])
            if self._saved["seed"] is not None:
                self._seed = self._saved["seed"]
        period = self._options.eval_period
        times = self.trainer.start_iter // period if period else 0
        starts = [
            (self._loader, self.trainer.start_iter),
            # PreciseBN reads on at every evaluation.
            (self._parts.statistics_loader, times * self._options.precise_bn),
        ]
        for loader, start in starts:
            if _can_start_anywhere(loader):
                loader.start = start
                if self._saved is not None and self._saved["seed"] is not None:
                    loader.seed = self._saved["seed"]

    def before_step(self) -> None:
        seed = self._seed_now
        if seed >= 0:
            # What the model draws (regions, dropped paths) depends on nothing before.
            seed_everything(ITERATION, seed, self.trainer.iter, comm.get_rank())

    def after_step(self) -> None:
        means = running_means(self.trainer.model)
        # Each process measures on its own images. A model without such means asks nobody.
        self._running_means = comm.all_gather(means) if means else []

    def state_dict(self) -> dict[str, object]:
        storage = getattr(self.trainer, "storage", None)
        seed = self._seed_now
        return {
            "seed": seed if seed >= 0 else None,
            "images": getattr(self._loader, "num_images", None),
            "processes": comm.get_world_size(),
            "config": self._parts.config,
            "running_means": self._running_means or [running_means(self.trainer.model)],
            "metrics": recent_metrics(storage) if storage else {},
        }

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Keep a state for the start of the training."""
        self._saved = state_dict

    def _warn_of_changes(self, saved: Mapping) -> None:
        changes = changed_values(saved["config"], self._parts.config, _WITHOUT_EFFECT)
        now = {"processes": comm.get_world_size()}
        if saved["images"] is not None and hasattr(self._loader, "num_images"):
            now["images"] = self._loader.num_images
        changes += [
            f"{count} {name} instead of {saved[name]}"
            for name, count in now.items()
            if saved[name] != count
        ]
        for change in changes:
            logger.warning("not the run that is resumed: %s", change)


class LRScheduler(hooks.LRScheduler):
    """detectron2's hook, with the state of any scheduler of PyTorch. detectron2's own keeps that of
    its own schedulers only; the name of the class is the name in a checkpoint."""

    def state_dict(self) -> dict:
        return self.scheduler.state_dict() if hasattr(self.scheduler, "state_dict") else {}

    def load_state_dict(self, state_dict: Mapping) -> None:
        if hasattr(self.scheduler, "load_state_dict"):  # fvcore's ParamScheduler has none
            self.scheduler.load_state_dict(state_dict)


def _can_start_anywhere(loader: object) -> bool:
    return hasattr(loader, "seed") and hasattr(loader, "start")


def running_means(model: nn.Module) -> dict[str, float]:
    """Module -> the mean number of objects that a dense detector divides its losses by."""
    return {
        name: float(module.__dict__[_RUNNING_MEAN])
        for name, module in bare(model).named_modules()
        if isinstance(module.__dict__.get(_RUNNING_MEAN), (int, float))  # a text in keypoint heads
    }


def restore_running_means(model: nn.Module, means: Mapping[str, float]) -> None:
    """Set what :func:`running_means` returned."""
    modules = dict(bare(model).named_modules())
    for name, value in means.items():
        setattr(modules[name], _RUNNING_MEAN, value)


def _own(means: Sequence[Mapping[str, float]] | Mapping[str, float]) -> Mapping[str, float]:
    """This process's; by turns where there are more processes than there were."""
    if isinstance(means, Mapping):  # of an earlier version: process 0's
        return means
    return means[comm.get_rank() % len(means)]


def recent_metrics(storage: EventStorage) -> dict[str, object]:
    """The last values of what was measured in the current iteration, to take medians over.

    Where that was left out because of its loss, the last losses are those of the one before.
    """
    hints, result = storage.smoothing_hints(), {}
    histories = storage.histories()
    losses = histories["total_loss"].values() if "total_loss" in histories else []
    last_loss = losses[-1][1] if losses else storage.iter
    for name, history in histories.items():
        values = history.values()[-WINDOW:]
        if name in _TIMES or name.startswith(_AT_THE_END) or not values:
            continue
        # Evaluations are not smoothed: an earlier one's would be written once more.
        if values[-1][1] == storage.iter or (hints[name] and values[-1][1] == last_loss):
            result[name] = {
                "smooth": hints[name],
                "values": [[float(v), int(i)] for v, i in values],
            }
    return result


def restore_metrics(storage: EventStorage, recent: Mapping[str, Mapping]) -> None:
    """Put back what :func:`recent_metrics` returned; the iteration stays what it is."""
    now = storage.iter
    for name, entry in recent.items():
        for value, iteration in entry["values"]:
            storage.iter = iteration
            storage.put_scalar(name, value, smoothing_hint=entry["smooth"])
    storage.iter = now


def cut_metrics_file(folder: str, iteration: int) -> None:
    """Remove the last lines of ``metrics.json`` that are of iterations after ``iteration``.

    They are what a run wrote after the checkpoint that it now continues from, and will write again.
    In place: the file may be open for more lines.
    """
    path = os.path.join(folder, METRICS_FILE)
    if not os.path.isfile(path):
        return
    with open(path, "r+b") as file:
        lines = file.readlines()
        while lines and _iteration(lines[-1]) > iteration:
            lines.pop()
        file.truncate(sum(map(len, lines)))


def _iteration(line: bytes) -> float:
    try:
        return json.loads(line)["iteration"]
    except (ValueError, KeyError, TypeError):  # the line that a kill has cut off
        return float("inf")
