"""The checkpoint of the best evaluation so far, by a metric of the config's choice."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from lambda_det.checkpoint.reading import read_file
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS

logger = logging.getLogger(__name__)

BEST = "model_best.pth"


class BestCheckpoint:
    """Writes ``model_best.pth``: the weights as they were evaluated, ``iteration`` (the last
    finished one, from 0), ``metric`` and ``value`` (percent).

    The file is also the memory of a resumed run, which so knows of evaluations behind the
    checkpoint that it goes on from.

    Args:
        cfg: names the metric in ``TEST.BEST_METRIC``; "" keeps none.
        checkpointer: of the run.
    """

    def __init__(self, cfg: CfgNode, checkpointer: RunCheckpointer) -> None:
        self._metric, self._sets = cfg.TEST.BEST_METRIC, tuple(cfg.DATASETS.TEST)
        self._checkpointer = checkpointer
        self._path = os.path.join(cfg.OUTPUT_DIR, BEST)
        self._value = -math.inf

    def resume(self) -> None:
        """Take up what the file says; a damaged one, or another metric's, is begun anew."""
        if not self._metric or not comm.is_main_process() or not os.path.exists(self._path):
            return
        try:
            content = read_file(self._path).data
            metric, value = content["metric"], float(content["value"])
        except (InputError, KeyError, TypeError, ValueError) as error:
            logger.warning("--resume: the best value so far is lost, %s", error)
            return
        if metric == self._metric:
            self._value = value
        else:
            logger.warning(
                "--resume: %s is the best by %s, TEST.BEST_METRIC is %s now",
                self._path, metric, self._metric,
            )  # fmt: skip

    def offer(self, results: Mapping[str, Mapping], iteration: int) -> None:
        """Keep the model of the moment if its results are better than all before.

        Args:
            results: of ``Trainer.test``.
            iteration: the last finished one.

        Raises:
            InputError: the file cannot be written; the earlier one is as it was.
        """
        if not self._metric or not self._sets or not comm.is_main_process():
            return
        dataset, task, name = _parts(self._metric, self._sets)
        found = results if len(self._sets) == 1 else results.get(dataset, {})
        value = found.get(task, {}).get(name)
        if value is None or math.isnan(value):
            logger.warning("the evaluation has no %s: no best checkpoint", self._metric)
        elif value > self._value:
            before = "" if self._value == -math.inf else f" ({self._value:.2f} before)"
            logger.info("%s %.2f is the best%s: %s", self._metric, value, before, self._path)
            content = {"iteration": iteration, "metric": self._metric, "value": value}
            self._checkpointer.write(
                {"model": self._checkpointer.model.state_dict(), **content}, self._path
            )
            self._value = value


def check_best_metric(cfg: CfgNode) -> None:
    """Is TEST.BEST_METRIC one that an evaluation gives?

    Raises:
        InputError: it is not.
    """
    metric, sets = cfg.TEST.BEST_METRIC, tuple(cfg.DATASETS.TEST)
    if not metric:
        return
    if not sets:
        raise InputError(
            f"TEST.BEST_METRIC={metric!r}: DATASETS.TEST is empty, nothing is evaluated"
        )
    tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    dataset, task, name = _parts(metric, sets)
    classes = MetadataCatalog.get(dataset).get("thing_classes", []) if dataset in sets else []
    per_class = {f"AP-{name}" for name in classes} if len(classes) > 1 else set()
    if dataset not in sets or task not in tasks or name not in {*METRICS, *per_class}:
        more = f", before it a dataset of DATASETS.TEST ({', '.join(sets)})" if sets[1:] else ""
        raise InputError(
            f"TEST.BEST_METRIC={metric!r}: expected one of {', '.join(tasks)}, a '/' and one of "
            f"{', '.join(METRICS)}, AP-<name of a class>{more}"
        )


def _parts(metric: str, sets: tuple[str, ...]) -> tuple[str, str, str]:
    """Dataset (the first one where none is named), task and name of a metric."""
    for dataset in sets:
        if metric.startswith(f"{dataset}/"):
            return dataset, *_task_and_name(metric.removeprefix(f"{dataset}/"))
    return sets[0], *_task_and_name(metric)


def _task_and_name(metric: str) -> tuple[str, str]:
    task, _, name = metric.partition("/")
    return task, name
