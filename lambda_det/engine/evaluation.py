"""The hook that evaluates a training: the average of the weights, its time, and the best so far."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence

from detectron2.data import MetadataCatalog
from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from torch import nn

from lambda_det.checkpoint.reading import read_file
from lambda_det.data.reading.display_names import registered_names
from lambda_det.engine.averaging import WeightAverage
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.interruption import Interruption
from lambda_det.engine.parallel import share_buffers
from lambda_det.engine.parts import Results
from lambda_det.engine.summary import RunSummary
from lambda_det.errors import InputError, key
from lambda_det.evaluation.metrics import metric_names

logger = logging.getLogger(__name__)

BEST = "model_best.pth"


class BestWeights:
    """Writes ``model_best.pth``: the weights as they were evaluated, ``iteration`` (the last
    finished one, from 0), ``metric`` and ``value``.

    A resumed run reads the value from the file, and so knows of evaluations after the checkpoint
    that it continues from.

    Args:
        metric: task and name of a metric, such as ``"segm/AP"``, with the dataset before it where
            several are evaluated and it is not of the first; "" = no file is written.
        checkpointer: of the run.
    """

    def __init__(self, metric: str, checkpointer: RunCheckpointer) -> None:
        self._metric, self._checkpointer = metric, checkpointer
        self._path = os.path.join(checkpointer.save_dir, BEST)
        self._value = -math.inf

    def resume(self) -> None:
        """Take the value from the file; a damaged file, or another metric's, is begun anew."""
        if not self._metric or not comm.is_main_process() or not os.path.exists(self._path):
            return
        try:
            content = read_file(self._path)
            metric, value = content["metric"], float(content["value"])
        except (InputError, KeyError, TypeError, ValueError) as error:
            logger.warning("--resume: the best value so far is lost, %s", error)
            return
        if metric == self._metric:
            self._value = value
        else:
            logger.warning(
                "--resume: %s is the best by %s, %s is %s now",
                self._path, metric, key("TEST.BEST_METRIC"), self._metric,
            )  # fmt: skip

    def offer(self, results: Results, iteration: int) -> None:
        """Keep the current weights if their results are better than all before.

        Args:
            results: of an evaluation.
            iteration: the last finished one.

        Raises:
            InputError: the file cannot be written; the earlier one is unchanged.
        """
        if not self._metric or not results or not comm.is_main_process():
            return
        values = flatten_results_dict(results)
        first = next(iter(results))  # a dataset, where there are several
        names = [self._metric, f"{first}/{self._metric}"]
        rest = self._metric  # the name of a dataset, which may have a "/", stands before the task
        while "/" in (rest := rest.partition("/")[2]):
            names.append(rest)
        value = next((values[name] for name in names if name in values), None)
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


class Evaluation(hooks.EvalHook):
    """Evaluates every ``period`` iterations and after the last one.

    Args:
        period: iterations; 0 = after the last one only.
        evaluate: takes the model and returns its metrics; None = nothing is evaluated.
        average: its weights are evaluated if it has any.
        best: keeps the best weights.
        interruption: a signal ends an evaluation at once.
        summary: gets the time of the model's calls.

    Attributes:
        results: metrics of the last evaluation.
    """

    def __init__(
        self,
        period: int,
        evaluate: Callable[[nn.Module], Results | None] | None,
        *,
        average: WeightAverage,
        best: BestWeights,
        interruption: Interruption,
        summary: RunSummary,
    ) -> None:
        super().__init__(period, self._evaluate)
        self.results: Mapping = {}
        self._evaluator, self._average, self._best = evaluate, average, best
        self._interruption, self._summary = interruption, summary

    def before_train(self) -> None:
        if self.trainer.start_iter:
            self._best.resume()

    def after_train(self) -> None:
        # detectron2's also evaluates when the last iteration has failed. Other processes may not
        # come to that evaluation, so they would wait for each other.
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def _evaluate(self) -> Mapping:
        if self._evaluator is None:
            return {}
        model = self.trainer.model
        share_buffers(model)  # all processes evaluate the network that process 0 saves
        training = model.training
        with self._average.applied():
            with self._interruption.raising(), self._summary.timing(model):
                self.results = self._evaluator(model) or {}
            model.train(training)
            self._best.offer(self.results, min(self.trainer.iter, self.trainer.max_iter - 1))
        return self.results


def check_best_metric(metric: str, sets: Sequence[str], tasks: Sequence[str]) -> None:
    """Check that an evaluation of COCO's metrics has a metric.

    Args:
        metric: see :class:`BestWeights`; "" is allowed.
        sets: names of the datasets that are evaluated.
        tasks: what is evaluated of ``"bbox"``, ``"segm"`` and ``"keypoints"``.

    Raises:
        InputError: it does not.
    """
    if not metric:
        return
    name = key("TEST.BEST_METRIC")
    if not sets:
        raise InputError(
            f"{name}={metric!r}: {key('DATASETS.TEST')} is empty, nothing is evaluated"
        )
    dataset = next((one for one in sets if metric.startswith(f"{one}/")), sets[0])
    task, _, last = metric.removeprefix(f"{dataset}/").partition("/")
    classes = registered_names(MetadataCatalog.get(dataset))
    per_class = {f"AP-{one}" for one in classes} if len(classes) > 1 else set()
    names = metric_names(task if task in tasks else tasks[0])
    if task not in tasks or last not in {*names, *per_class}:
        more = (
            f", before it a dataset of {key('DATASETS.TEST')} ({', '.join(sets)})"
            if len(sets) > 1
            else ""
        )
        same = [one for one in sorted(per_class) if one.startswith(f"{last} (")]
        raise InputError(
            f"{name}={metric!r}: expected one of {', '.join(tasks)}, a '/' and one of "
            f"{', '.join((*names, *same))}, AP-<name of a class>{more}"
        )
