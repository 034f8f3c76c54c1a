"""What a resumed run needs besides weights, optimiser and schedule, and how it takes it up.

No generator's state is among it: an iteration's randomness follows from the run's seed and the
iteration, an image's from the seed and its place in the order (:mod:`lambda_det.randomness`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence

from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.configs import changed_keys
from lambda_det.data.loaders import TrainingLoader
from lambda_det.engine.launch import bare

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
WINDOW = 20  # iterations that detectron2 takes medians over, and after which it writes

# Keys that a resumed run may change and still be the same run.
_WITHOUT_EFFECT = (
    "CUDNN_BENCHMARK", "DATALOADER.NUM_WORKERS", "DATASETS.COCO_FOLDER", "DATASETS.TEST",
    "MODEL.WEIGHTS", "OUTPUT_DIR", "SOLVER.CHECKPOINT_", "TEST.", "VERSION", "VIS_PERIOD",
    "WANDB.",
)  # fmt: skip
# The clock's: of another process they say nothing.
_TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
# Of the run's last iteration: a longer run that goes on behind it measures them at its own end.
_AT_THE_END = ("last_norm/", "embedding_rms/")
# detectron2's dense detectors keep this running mean as a number and not as a buffer.
_RUNNING_MEAN = "loss_normalizer"

State = dict[str, object]


def run_state(trainer: TrainerBase) -> State:
    """What :func:`restore_run_state` takes: plain types."""
    loader = trainer.data_loader
    is_ours = isinstance(loader, TrainingLoader)
    storage = getattr(trainer, "storage", None)
    return {
        "seed": loader.seed if is_ours else None,
        "images": loader.num_images if is_ours else None,
        "processes": comm.get_world_size(),
        "config": trainer.cfg.dump(),
        "running_means": trainer.running_means or [running_means(trainer.model)],
        "metrics": recent_metrics(storage) if storage else {},
    }


def restore_run_state(trainer: TrainerBase, state: State | None) -> None:
    """Let the data of ``trainer`` go on behind ``trainer.iter``, and say what is another run's.

    Args:
        trainer: its ``iter`` is the last finished iteration.
        state: of :func:`run_state`; None of a checkpoint that another trainer has written.
    """
    loaders = [trainer.data_loader, *(getattr(h, "_data_loader", None) for h in trainer._hooks)]
    ours = [loader for loader in loaders if isinstance(loader, TrainingLoader)]
    if state is None:
        logger.warning(
            "not an exact resume: the checkpoint holds no seed; images come in a new order"
        )
    else:
        for line in changed_keys(state["config"], trainer.cfg, ("",), _WITHOUT_EFFECT):
            logger.warning("not the run that is resumed: %s", line)
        now = {"processes": comm.get_world_size()} | (
            {"images": ours[0].num_images} if ours and state["images"] is not None else {}
        )
        for name, count in now.items():
            if state[name] != count:
                logger.warning(
                    "not the run that is resumed: %d %s instead of %d", count, name, state[name]
                )
        restore_running_means(trainer.model, _own(state["running_means"]))
    for loader in ours:
        if state is not None and state["seed"] is not None:
            loader.seed = state["seed"]
        loader.start = trainer.iter + 1
        if loader is not trainer.data_loader:  # PreciseBN's, which reads at every evaluation
            test = trainer.cfg.TEST
            times = loader.start // test.EVAL_PERIOD if test.EVAL_PERIOD else 0
            loader.start = times * test.PRECISE_BN.NUM_ITER


def running_means(model: nn.Module) -> dict[str, float]:
    """Module -> the mean number of objects that a dense detector divides its losses by."""
    return {
        name: float(module.__dict__[_RUNNING_MEAN])
        for name, module in bare(model).named_modules()
        if _RUNNING_MEAN in module.__dict__
    }


def running_means_of_all(model: nn.Module) -> list[dict[str, float]]:
    """:func:`running_means` of every process, which each measures on its own images.

    To be called by all of them; empty, without asking the others, where the model has none.
    """
    means = running_means(model)
    return comm.all_gather(means) if means else []


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


def recent_metrics(storage: EventStorage) -> State:
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

    They are what a run wrote after the checkpoint that it now goes on from, and will write again.
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
