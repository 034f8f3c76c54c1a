"""The trainer: one step of a training, with its precision, its parts and what is not finite."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from detectron2.engine import SimpleTrainer, TrainerBase, hooks
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from lambda_det.engine.accumulation import mean_losses, measured_once, split
from lambda_det.engine.interruption import TrainingInterrupted
from lambda_det.engine.nonfinite import any_not_finite, describe_gradients, read_step, watching
from lambda_det.engine.parallel import bare, errors_shared, without_sharing
from lambda_det.engine.run_state import RunState
from lambda_det.errors import InputError, key
from lambda_det.layers.precision import autocast_to

logger = logging.getLogger(__name__)

SKIPPED = "skipped_steps"
"""Metric: iterations without an update so far, where any were allowed."""

LEAST_SCALE = 1.0
"""Smallest scale of float16's gradients. An overflow of the scaled gradients lowers the scale; at
this scale the gradients overflow by themselves, and a lower one would train nothing, silently."""


def _is_no_input_error(record: logging.LogRecord) -> bool:
    one_line_errors = (InputError, FloatingPointError)
    return not (record.exc_info and isinstance(record.exc_info[1], one_line_errors))


# detectron2 logs the traceback of whatever stops a training; wrong input and NaN are one line.
logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)


class Trainer(SimpleTrainer):
    """detectron2's SimpleTrainer, on a GPU or a CPU, with autocast, in parts; it stops at NaN.

    Args:
        model: maps a batch to losses; it may be in DistributedDataParallel.
        data_loader: gives batches.
        optimizer: of the model.
        precision: type of the autocast of the forward pass, ``torch.bfloat16`` or
            ``torch.float16``; float16 scales the gradients and needs a GPU. None = no autocast.
        accumulate: number of parts of a batch; losses and gradients are the mean over the parts.
        max_skipped: number of iterations of a run that may have a loss or a gradient that is not
            finite: these make no update and leave the running statistics as they were. The next
            one ends the training.
    """

    iter: int

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype | None = None,
        accumulate: int = 1,
        max_skipped: int = 0,
    ) -> None:
        # detectron2 v0.5 begins to iterate here, before a resumed run can say where.
        super().__init__(model, (), optimizer)
        self.data_loader = data_loader
        self._batches: Iterator | None = None
        self.precision = precision
        self.max_skipped, self.skipped = max_skipped, 0
        self._parts = accumulate
        self.finished = 0
        self._device = next(model.parameters()).device
        self._scaler = torch.amp.GradScaler("cuda") if precision is torch.float16 else None
        # To go on without an iteration, all processes must know before the gradients are shared. A
        # norm of the heads that spans processes would wait for one that has no proposals.
        waiting = _norms_across_processes(model)
        self._tells_others = (
            max_skipped > 0
            and comm.get_world_size() > 1
            and all(name.startswith("backbone.") for name in waiting)
        )

    def after_step(self) -> None:
        self.finished = self.iter + 1
        super().after_step()

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # detectron2 adds 1 even if no step ran
        if self.skipped:
            logger.warning(
                "%d of %d iterations were left out, because a loss, a gradient or a proposal was "
                "not finite (%s %d)",
                self.skipped, self.iter, key("SOLVER.MAX_SKIPPED_STEPS"), self.max_skipped,
            )  # fmt: skip
        try:
            super().after_train()
        except TrainingInterrupted:  # in the last evaluation, which the writers come after
            for hook in self._hooks:
                if isinstance(hook, hooks.PeriodicWriter):
                    hook.after_train()
            raise

    def run_step(self) -> None:
        """Take a batch and make one update.

        Raises:
            FloatingPointError: a loss or a gradient is NaN or infinite.
        """
        assert self.model.training, "the model is in eval mode"
        start = time.perf_counter()
        data = self._next_batch()
        data_time = time.perf_counter() - start
        before = _random_states(self._device)
        statistics = self._running_statistics() if self.max_skipped else []

        try:
            losses = self._backward(data)
        except FloatingPointError as error:  # detectron2's, of proposals that are not finite
            if comm.get_world_size() > 1 and not self._tells_others:
                # The others wait for gradients: no going on together.
                raise FloatingPointError(self._last_words(data, str(error), before)) from error
            own = not isinstance(error, _OfAnotherProcess)
            self._leave_out(data, str(error), own, before, statistics)
            return
        # The one wait of the host for a GPU, after the backward pass; with float16, the scaler's
        # step below is a second one.
        total, bad_loss, bad_gradient, seen = read_step(losses, self._bad_gradient())
        if bad_loss or bad_gradient:
            own = not bad_loss or not math.isfinite(total)
            if not bad_loss:
                reason = describe_gradients(self.model)
            elif own:
                terms = ", ".join(f"{name} {loss:.4g}" for name, loss in seen.items())
                reason = f"the loss is not finite ({terms})"
            else:
                reason = "the loss of another process is not finite"
            self._leave_out(data, reason, own, before, statistics)
            return
        on_host = {name: torch.tensor(loss, dtype=torch.float64) for name, loss in seen.items()}
        self._write_metrics(on_host, data_time)  # detectron2's, which takes tensors
        if self.skipped:  # in every line from the first one on, also of a run that was resumed
            get_event_storage().put_scalar(SKIPPED, self.skipped, smoothing_hint=False)
        if self._scaler:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()

    def _next_batch(self) -> Sequence:
        if self._batches is None:
            self._batches = iter(self.data_loader)
        with errors_shared():
            try:
                return next(self._batches)
            except StopIteration:
                raise InputError(
                    f"the loader of the training has no batch for iteration {self.iter}; it must "
                    "have one for every iteration"
                ) from None

    def state_dict(self) -> dict[str, object]:
        # In the form of DefaultTrainer's, which can continue from it; v0.5 keeps no optimiser.
        step = {"iteration": self.iter, "optimizer": self.optimizer.state_dict()}
        if self._scaler:
            step["grad_scaler"] = self._scaler.state_dict()
        return TrainerBase.state_dict(self) | {"_trainer": step, SKIPPED: self.skipped}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Continue from a state of this class, of an earlier lambda_det or of DefaultTrainer."""
        # The earlier one has "lambda_det" in place of a hook's state.
        state = {**state_dict.get("_trainer", {}), **state_dict}
        if "lambda_det" in state:
            state["hooks"] = state.get("hooks", {}) | {RunState.__name__: state["lambda_det"]}
        self.skipped = state.get(SKIPPED, 0)
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        else:
            logger.warning("not an exact resume: the checkpoint holds no state of the optimiser")
        if self._scaler and "grad_scaler" in state:
            self._scaler.load_state_dict(state["grad_scaler"])
        # After the optimiser, because a schedule may set its rates.
        TrainerBase.load_state_dict(self, state)

    def _backward(self, images: Sequence[Mapping]) -> dict[str, Tensor]:
        """Leave the gradients of the images' losses, and return these.

        Raises:
            FloatingPointError: see :meth:`_forward`.
        """
        self.optimizer.zero_grad()
        found = []
        with measured_once(self._parts):
            for number, part in enumerate(split(images, self._parts), start=1):
                with without_sharing(self.model, unless=number == self._parts):
                    losses = self._forward(part)
                    total = sum(losses.values()) / self._parts
                    (self._scaler.scale(total) if self._scaler else total).backward()
                found.append({name: loss.detach() for name, loss in losses.items()})
        return mean_losses(found)

    def _forward(self, images: Sequence[Mapping]) -> dict[str, Tensor]:
        """The losses of images.

        Raises:
            FloatingPointError: detectron2's; in every process where ``_tells_others``.
        """
        losses, error = {}, None
        try:
            with autocast_to(self.precision, self._device.type):
                losses = self.model(images)
        except FloatingPointError as raised:
            error = raised
        if self._tells_others and any(comm.all_gather(error is not None)):
            error = error or _OfAnotherProcess("the proposals of another process are not finite")
        if error is not None:
            raise error
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _bad_gradient(self) -> Tensor:
        """Whether a gradient is not finite. While the scale of float16 can fall, its gradients are
        the scaler's business."""
        bad = any_not_finite(self.model.parameters())
        if not self._scaler:
            return bad
        one = torch.ones((), device=self._device)
        return bad & (self._scaler.scale(one) <= LEAST_SCALE)  # get_scale() would wait for a GPU

    def _leave_out(
        self,
        data: Sequence,
        reason: str,
        own: bool,
        before: Mapping[str, Tensor],
        statistics: Iterable[tuple[Tensor, Tensor]],
    ) -> None:
        """Undo the step, or end the training.

        Args:
            data: the batch.
            reason: what is not finite.
            own: whether that is this process's.
            before: states of the random numbers before the step.
            statistics: pairs of a buffer and its value before the step.
        """
        if self.skipped >= self.max_skipped:
            line = self._last_words(data, reason, before) if own else ""
            # All processes raise the same line, and only after it is complete.
            raise FloatingPointError(next(filter(None, comm.all_gather(line))))
        self.skipped += 1
        self.optimizer.zero_grad()
        for tensor, value in statistics:
            tensor.copy_(value)
        storage = get_event_storage()
        logger.warning(
            "iteration %d left out (%d of at most %d): %s on %s",
            storage.iter, self.skipped, self.max_skipped, reason, image_names(data),
        )  # fmt: skip
        storage.put_scalar(SKIPPED, self.skipped, smoothing_hint=False)

    def _last_words(self, data: Sequence, reason: str, before: Mapping[str, Tensor]) -> str:
        line = f"iteration {get_event_storage().iter}: {reason} on {image_names(data)}"
        first = self._first_module_not_finite(data, before)
        return f"{line}; the first module whose output is not finite: {first}" if first else line

    def _first_module_not_finite(self, data: Sequence, before: Mapping[str, Tensor]) -> str:
        """Repeat the forward pass of the step, and return what :func:`watching` finds, or ""."""
        if comm.get_world_size() > 1 and _norms_across_processes(self.model):
            return ""  # the others may not repeat it
        torch.set_rng_state(before["cpu"])
        if "cuda" in before:
            torch.cuda.set_rng_state(before["cuda"], self._device)
        model = bare(self.model)
        with (
            torch.no_grad(),
            EventStorage(),
            contextlib.suppress(FloatingPointError),  # detectron2's, of the proposals
            watching(model) as found,
            autocast_to(self.precision, self._device.type),
        ):
            for part in split(data, self._parts):
                model(part)
        return next(iter(found), "")

    def _running_statistics(self) -> list[tuple[Tensor, Tensor]]:
        return [(buffer, buffer.clone()) for buffer in self.model.buffers()]


class _OfAnotherProcess(FloatingPointError):
    """Another process has raised detectron2's error."""


def _norms_across_processes(model: nn.Module) -> list[str]:
    """Return the names of the norms whose forward pass waits for the other processes."""
    kinds = (nn.SyncBatchNorm, NaiveSyncBatchNorm)
    return [name for name, m in bare(model).named_modules() if isinstance(m, kinds)]


def image_names(data: Iterable) -> str:
    """Return the files of a batch of detectron2's images, for a message."""
    images = [image for image in data if isinstance(image, Mapping)]
    names = (str(image.get("file_name", image.get("image_id", "?"))) for image in images)
    return ", ".join(names) or "this batch"


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states
