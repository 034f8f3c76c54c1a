"""The hooks of a training, in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from lambda_det.engine.averaging import WeightAverage
from lambda_det.engine.backend_choices import BackendChoices
from lambda_det.engine.branches import BranchReport
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.evaluation import Evaluation
from lambda_det.engine.interruption import Interruption
from lambda_det.engine.parts import Parts, RunOptions
from lambda_det.engine.progress import PeakGpuMemory, ShortHistories, Writers
from lambda_det.engine.run_state import LRScheduler, RunState
from lambda_det.errors import InputError


class PreciseBN(hooks.PreciseBN):
    """detectron2's hook; after an error, such as an image that cannot be read, the running
    statistics are what they were, since the training saves them before it ends."""

    def update_stats(self) -> None:
        before = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        try:
            super().update_stats()
        except InputError:
            for buffer, value in before:
                buffer.copy_(value)
            raise


def hooks_in_order(
    parts: Parts,
    options: RunOptions,
    own_hooks: Sequence[HookBase],
    *,
    model: nn.Module,
    average: WeightAverage,
    checkpointer: RunCheckpointer,
    interruption: Interruption,
    evaluation: Evaluation,
    make_writers: Callable[[], list[EventWriter]],
) -> list[HookBase]:
    """Return the hooks that a training calls, the first one first.

    Args:
        parts, options: of the run.
        own_hooks: the user's hooks.
        model: the model that is trained; it may be in DistributedDataParallel.
        average, checkpointer, interruption, evaluation: what the run also uses by itself.
        make_writers: makes the writers of the metrics when the training begins.
    """
    is_main = comm.is_main_process()
    in_order: list[HookBase] = [
        RunState(parts, options),
        PeakGpuMemory(),
        ShortHistories(),
        BranchReport(),
        average,
        hooks.IterationTimer(),
    ]
    if parts.scheduler is not None:
        in_order.append(LRScheduler(parts.optimizer, parts.scheduler))
    if parts.statistics_loader is not None and options.precise_bn:
        in_order.append(
            PreciseBN(options.eval_period, model, parts.statistics_loader, options.precise_bn)
        )
    in_order += own_hooks
    if is_main:
        in_order.append(hooks.PeriodicCheckpointer(checkpointer, options.checkpoint_period))
    # After the checkpoint, so that it need not be written twice, and before an evaluation, which
    # takes minutes.
    # The choices of back ends hold in the last evaluation, too.
    in_order += [interruption, evaluation, BackendChoices()]
    if is_main:  # last, so that the metrics of all others are written
        in_order.append(Writers(make_writers))
    return in_order
