"""One iteration of a training: precision, update, and what to do where a loss is not finite."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from lambda_det.layers.precision import autocast_to

logger = logging.getLogger(__name__)

SKIPPED = "skipped_steps"
"""Metric: iterations without an update so far, where any were allowed."""

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
        max_skipped: iterations of a run that may have a loss that is not finite: these are left
            out, with the running statistics. The next one ends the training.
        on_bad_step: called when the training is to end, in the processes that have such a loss.
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
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.max_skipped, self.skipped = max_skipped, 0
        self._on_bad_step = on_bad_step
        self._device = next(model.parameters()).device
        self._scaler = _grad_scaler() if precision is torch.float16 else None

    def run_step(self) -> None:
        """Take a batch and make one update.

        Raises:
            FloatingPointError: a loss is NaN or infinite.
        """
        assert self.model.training, "the model is in eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        before = _random_states(self._device)
        statistics = self._running_statistics() if self.max_skipped else []

        try:
            with autocast_to(self.precision, self._device.type):
                losses = self.model(data)
        except FloatingPointError as error:  # detectron2's, of proposals that are not finite
            if comm.get_world_size() > 1:  # the others wait for gradients: no going on together
                raise FloatingPointError(self._end(data, str(error), {}, before)) from error
            self._leave_out(data, str(error), {}, before, statistics)
            return
        if isinstance(losses, Tensor):
            losses = {"total_loss": losses}
        total = sum(losses.values())
        self.optimizer.zero_grad()
        (self._scaler.scale(total) if self._scaler else total).backward()

        # Behind the backward pass, so that a GPU need not wait in the middle of the iteration.
        if self._any_bad(total):
            values = {name: loss.item() for name, loss in losses.items()}
            terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            reason = f"the loss is not finite ({terms})"
            if torch.isfinite(total):
                reason, values = "the loss of another process is not finite", None
            self._leave_out(data, reason, values, before, statistics)
            return
        self._write_metrics(losses, data_time)
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

    def _any_bad(self, total: Tensor) -> bool:
        """Whether the loss of any process is not finite: they go on, or stop, together."""
        bad = (~torch.isfinite(total.detach())).to(torch.float32)
        if comm.get_world_size() > 1:
            dist.all_reduce(bad, dist.ReduceOp.MAX)
        return bool(bad.item())

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
