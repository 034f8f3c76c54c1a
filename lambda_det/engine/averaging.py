"""An exponential moving average of a training's weights, which is what is evaluated."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.parallel import bare, share_buffers
from lambda_det.errors import key

logger = logging.getLogger(__name__)

FINAL_AVERAGE = "model_final_ema.pth"
"""Beside ``model_final.pth``, which holds the weights that the optimiser has left."""


class WeightAverage(HookBase):
    """``average ← decay · average + (1 − decay) · weights`` after every iteration.

    Running statistics are averaged as weights are (as in timm and d2go), counters are copied. The
    average begins as the weights after its first iteration. It is part of the trainer's state. At
    the end of the training it is written to ``model_final_ema.pth``.

    Args:
        model: it may be in DistributedDataParallel.
        decay: below 1; 0 keeps no average.
        checkpointer: writes the file.
        warmup: in iteration i, from 0, the decay is at most ``1 − (1 + i)^(−2/3)``, as in timm.
    """

    def __init__(
        self, model: nn.Module, decay: float, checkpointer: RunCheckpointer, *, warmup: bool = False
    ) -> None:
        self._model, self._decay, self._checkpointer = model, decay, checkpointer
        self._warmup = warmup
        self._values: dict[str, Tensor] = {}

    def before_train(self) -> None:
        if self._decay and self.trainer.start_iter and not self._values:
            logger.warning(
                "not an exact resume: the checkpoint holds no average of the weights, %s %g; it "
                "begins after iteration %d",
                key("SOLVER.EMA_DECAY"), self._decay, self.trainer.start_iter + 1,
            )  # fmt: skip

    def after_step(self) -> None:
        if not self._decay:
            return
        self.update(self.trainer.iter)
        if self.trainer.iter + 1 == self.trainer.max_iter and comm.is_main_process():
            path = os.path.join(self._checkpointer.save_dir, FINAL_AVERAGE)
            logger.info("saving %s, the average of the weights", path)
            self._checkpointer.write({"model": self._values, "iteration": self.trainer.iter}, path)

    def update(self, iteration: int = 0) -> None:
        """Take the weights of the moment into the average."""
        now = bare(self._model).state_dict()
        if not self._values:
            self._values = {name: tensor.clone() for name, tensor in now.items()}
            return
        averaged = [name for name, tensor in now.items() if tensor.is_floating_point()]
        decay = self._decay
        if self._warmup:
            decay = min(decay, 1 - (1 + iteration) ** (-2 / 3))
        average = get_ema_multi_avg_fn(decay)
        average([self._values[n] for n in averaged], [now[n] for n in averaged], None)
        for name in now.keys() - set(averaged):
            self._values[name].copy_(now[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average, where there is one, inside of the block, and note it
        among the metrics.

        Of several processes all have the running statistics of process 0.
        """
        if not self._values:
            yield
            return
        logger.info(
            "the average of the weights is evaluated (%s %g)", key("SOLVER.EMA_DECAY"), self._decay
        )
        state = bare(self._model).state_dict()
        kept = {name: tensor.clone() for name, tensor in state.items()}
        try:
            _copy(self._values, state)
            share_buffers(self._model)
            yield
        finally:
            _copy(kept, state)
        get_event_storage().put_scalar("ema_decay", self._decay, smoothing_hint=False)

    def state_dict(self) -> dict[str, object]:
        return {"average": self._values} if self._values else {}

    def load_state_dict(self, state_dict: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take up an average; nothing without a decay, where none is kept.

        Raises:
            ValueError: it is another network's.
        """
        if not self._decay:
            return
        now, saved = bare(self._model).state_dict(), state_dict["average"]
        if {n: t.shape for n, t in now.items()} != {n: t.shape for n, t in saved.items()}:
            raise ValueError("another network's average")
        self._values = {name: saved[name].to(now[name], copy=True) for name in now}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
