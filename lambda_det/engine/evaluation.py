"""The hook that evaluates a training: the average of the weights, its time, and the best so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from detectron2.engine import hooks
from torch import nn

from lambda_det.engine.averaging import WeightAverage
from lambda_det.engine.best import BestWeights
from lambda_det.engine.interruption import Interruption
from lambda_det.engine.launch import share_buffers
from lambda_det.engine.parts import Results
from lambda_det.engine.summary import RunSummary


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
