"""The back ends that lambda layers have chosen by measurement, as a part of a training."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from lambda_det.engine.parallel import bare
from lambda_det.layers import LambdaLayer
from lambda_det.layers.autotune import VARIABLE, is_allowed
from lambda_det.layers.choices import CHOICES, Table, read_table

logger = logging.getLogger(__name__)


class BackendChoices(HookBase):
    """Keeps the choices in the checkpoints, and gives those of process 0 to all processes.

    A choice decides the last bits of a result. A resumed run makes the choices of its checkpoint
    again, and takes further ones in the iteration in which the undisturbed run takes them. A run
    that had no choices, because it is of an earlier version or measured nothing, goes on without.

    Process 0 measures when it meets a kind of call, whenever that is; the others, which meet other
    sizes of images, cannot wait for it there. They get its choices before the next iteration, and
    follow the rule until then.
    """

    def __init__(self) -> None:
        self._saved: Table | None = None
        self._chooses = self._shares = False

    def before_train(self) -> None:
        # All processes must agree whether they share: the variable may be set on one machine only.
        may_measure = all(comm.all_gather(is_allowed() and _measures(self.trainer.model)))
        CHOICES.active = self._chooses = may_measure
        self._shares = CHOICES.shared = may_measure and comm.get_world_size() > 1
        if self._saved is not None and not may_measure:
            logger.warning(
                "not the run that is resumed: it chose the back ends of its lambda layers by "
                "measurement, and %s=0 or the config forbids that", VARIABLE,
            )  # fmt: skip
        elif self._saved is not None:
            CHOICES.update(self._saved)
        elif self.trainer.start_iter and may_measure:
            CHOICES.active = self._chooses = self._shares = False
            logger.info(
                "the run that is resumed chose the back ends of its lambda layers by a rule, and "
                "goes on so"
            )

    def before_step(self) -> None:
        if self._shares:
            CHOICES.update(comm.all_gather(CHOICES.take_new())[0])

    def after_train(self) -> None:
        CHOICES.active, CHOICES.shared = True, False

    def state_dict(self) -> dict[str, Table]:
        # Also after the training, whose interruption saves then.
        table = CHOICES.table() if self._chooses else {}
        return {"choices": table} if table else {}

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Keep the choices for the start of the training."""
        self._saved = read_table(state_dict.get("choices"))


def _measures(model: nn.Module) -> bool:
    """Whether a model has a lambda layer that may measure."""
    return any(
        isinstance(module, LambdaLayer) and module.backend == "auto" and module.autotune
        for module in bare(model).modules()
    )
