"""One iteration of a training: precision, update, and what to do where a loss, a gradient or a
proposal is not finite."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from lambda_det.engine.accumulation import mean_losses, measured_once, split, without_sharing
from lambda_det.engine.gradients import any_not_finite, described, names_not_finite
from lambda_det.engine.launch import bare
from lambda_det.layers.precision import autocast_to

logger = logging.getLogger(__name__)

SKIPPED = "skipped_steps"
"""Metric: iterations without an update so far, where any were allowed."""

LEAST_SCALE = 1.0
"""Of float16's gradients. Infinite ones are how the scale finds its height; at this one they are
infinite by themselves, and lowering it without an end would train nothing, silently."""

BadStep = Callable[[Sequence[Mapping], Mapping[str, float], Mapping[str, Tensor]], str]
"""(images, losses, random states of the step) -> the line that the training stops with."""


class TrainingStep(SimpleTrainer):
    """detectron2's training step on a GPU or a CPU, in float32 or with autocast, that stops at NaN.

    Args:
        model: images -> losses.
        data_loader: gives lists of images.
        optimizer: of the model.
        precision: None is the model's own, ``torch.bfloat16`` or ``torch.float16`` run the forward
            pass under autocast, float16 with scaled gradients (on a GPU).
        max_skipped: iterations of a run that may have a loss or a gradient that is not finite:
            these are left out, with the running statistics. The next one ends the training.
        on_bad_step: called when the training is to end, in the processes that have such a loss,
            and in all of them where only the gradient, which they share, is bad.
        accumulate: parts that a batch is taken in; losses and gradients are the mean over them.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype | None = None,
        max_skipped: int = 0,
        on_bad_step: BadStep | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.max_skipped, self.skipped = max_skipped, 0
        self._on_bad_step, self._parts = on_bad_step, accumulate
        self._device = next(model.parameters()).device
        self._scaler = _grad_scaler() if precision is torch.float16 else None
        # To go on without an iteration all must know before the gradients are shared.
        self._tells_others = (
            max_skipped > 0 and comm.get_world_size() > 1 and not _heads_wait_for_others(model)
        )

    def report_skipped(self, iterations: int) -> None:
        """Say at the end of a run how many of its iterations were left out; nothing if none was."""
        if self.skipped:
            logger.warning(
                "%d of %d iterations were left out, because a loss, a gradient or a proposal was "
                "not finite (SOLVER.MAX_SKIPPED_STEPS %d)",
                self.skipped, iterations, self.max_skipped,
            )  # fmt: skip

    def run_step(self) -> None:
        """Take a batch and make one update.

        Raises:
            FloatingPointError: a loss or a gradient is NaN or infinite.
        """
        assert self.model.training, "the model is in eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        before = _random_states(self._device)
        statistics = self._running_statistics() if self.max_skipped else []

        try:
            losses = self._backward(data)
        except FloatingPointError as error:  # detectron2's, of proposals that are not finite
            if comm.get_world_size() > 1 and not self._tells_others:
                # The others wait for gradients: no going on together.
                raise FloatingPointError(self._end(data, str(error), {}, before)) from error
            values = None if isinstance(error, _OfAnotherProcess) else {}
            self._leave_out(data, str(error), values, before, statistics)
            return
        total = sum(losses.values())
        # Behind the backward pass, so that a GPU need not wait in the middle of the iteration.
        bad_loss, bad_gradient = self._any_bad(total)
        if bad_loss or bad_gradient:
            values = {name: loss.item() for name, loss in losses.items()}
            terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            if not bad_loss:
                reason = described(names_not_finite(self.model))
            elif torch.isfinite(total):
                reason, values = "the loss of another process is not finite", None
            else:
                reason = f"the loss is not finite ({terms})"
            self._leave_out(data, reason, values, before, statistics)
            return
        self._write_metrics(losses, data_time)
        if self.skipped:  # in every line from the first one on, also of a run that was resumed
            get_event_storage().put_scalar(SKIPPED, self.skipped, smoothing_hint=False)
        if self._scaler:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()

    def state_dict(self) -> dict[str, object]:
        state = super().state_dict() | {SKIPPED: self.skipped}
        if self._scaler:
            state["grad_scaler"] = self._scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None:
        super().load_state_dict(state_dict)
        self.skipped = state_dict.get(SKIPPED, 0)
        if self._scaler and "grad_scaler" in state_dict:
            self._scaler.load_state_dict(state_dict["grad_scaler"])

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

    def _any_bad(self, total: Tensor) -> tuple[bool, bool]:
        """Whether the loss, or a gradient, of any process is not finite: they go on, or stop,
        together. While the scale of float16 can fall, its gradients are the scaler's business."""
        bad = torch.zeros(2, device=total.device)
        bad[0] = ~torch.isfinite(total.detach())
        if not self._scaler or self._scaler.get_scale() <= LEAST_SCALE:
            bad[1] = any_not_finite(self.model.parameters())
        if comm.get_world_size() > 1:
            dist.all_reduce(bad, dist.ReduceOp.MAX)
        loss, gradient = bad.tolist()
        return bool(loss), bool(gradient)

    def _leave_out(self, data, reason, losses, before, statistics) -> None:
        """Forget the step or end the training; ``losses`` None: another process's are bad."""
        if self.skipped >= self.max_skipped:
            line = "" if losses is None else self._end(data, reason, losses, before)
            # All say what it is, and none ends (and has the others ended) while one still writes.
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

    def _end(self, data, reason, losses, before) -> str:
        line = f"iteration {get_event_storage().iter}: {reason} on {image_names(data)}"
        return line + self._on_bad_step(data, losses, before) if self._on_bad_step else line

    def _running_statistics(self) -> list[tuple[Tensor, Tensor]]:
        return [(buffer, buffer.clone()) for buffer in self.model.buffers()]


class _OfAnotherProcess(FloatingPointError):
    """Another process has raised detectron2's error."""


def _heads_wait_for_others(model: nn.Module) -> bool:
    """Whether norms behind the proposals meet those of other processes in the forward pass: there
    they would wait for a process that has none."""
    kinds = (nn.SyncBatchNorm, NaiveSyncBatchNorm)
    return any(
        isinstance(module, kinds) and not name.startswith("backbone.")
        for name, module in bare(model).named_modules()
    )


def image_names(data: Sequence[Mapping]) -> str:
    """The batch's files, for a message."""
    return ", ".join(str(image.get("file_name", image.get("image_id", "?"))) for image in data)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _grad_scaler():
    scaler = getattr(torch.amp, "GradScaler", None)  # not in PyTorch before 2.3
    return scaler("cuda") if scaler else torch.cuda.amp.GradScaler()
