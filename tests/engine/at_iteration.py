"""A hook that does something at an iteration of a training."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.engine import HookBase


class At(HookBase):
    """Calls ``action`` before the step of an iteration."""

    def __init__(self, iteration: int, action: Callable[[], object]) -> None:
        self.iteration, self.action = iteration, action

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.action()
