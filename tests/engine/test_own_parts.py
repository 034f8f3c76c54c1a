"""A loader, a schedule and a hook of a user's own are resumed exactly."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_differences import content, differences, ignoring_folder
from detectron2.engine import HookBase

from lambda_det.engine import run
from lambda_det.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]


class Numbers(HookBase):
    """Has a state of its own: the losses that it has seen."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_step(self) -> None:
        self.seen.append(self.trainer.storage.history("total_loss").latest())
        self.trainer.storage.put_scalar("seen", len(self.seen), smoothing_hint=False)

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict) -> None:
        self.seen = list(state_dict["seen"])


class Repeated:
    """A loader of one's own: the same batches again and again, from any one on."""

    def __init__(self, batches: list) -> None:
        self.seed, self.start, self._batches = 7, 0, batches

    def __iter__(self):  # no generator, which would read "start" later
        return (self._batches[n % len(self._batches)] for n in range(self.start, 100))


def test_own_parts_resume_exactly_too(make_training, tmp_path):
    """A loader, a schedule of PyTorch and a hook with a state, as a user's own script has them."""

    def train(folder: Path, iterations: int, *, resume: bool = False) -> list[float]:
        training = make_training(folder, "SOLVER.MAX_ITER", iterations)
        parts, numbers = training.parts, Numbers()
        batches = list(itertools.islice(parts.train_loader, 3))
        schedule = torch.optim.lr_scheduler.OneCycleLR(parts.optimizer, 0.1, total_steps=9)
        own = replace(parts, train_loader=Repeated(batches), scheduler=schedule)
        run(own, training.options, resume=resume, hooks=[numbers])
        return numbers.seen

    whole = train(tmp_path / "whole", 4)
    assert len(whole) == 4
    train(tmp_path / "part", 2)
    assert train(tmp_path / "part", 4, resume=True) == whole
    found = differences(content(tmp_path / "part"), content(tmp_path / "whole"))
    assert ignoring_folder(found) == []
    last = (tmp_path / "whole" / "metrics.json").read_text().splitlines()[-1]
    assert json.loads(last)["seen"] == 4  # what a hook measures is written


def test_a_loader_that_begins_anew_is_said(make_training, tmp_path, caplog):
    def train(iterations: int, *, resume: bool = False) -> None:
        training = make_training(tmp_path, "SOLVER.MAX_ITER", iterations)
        batches = list(itertools.islice(training.parts.train_loader, iterations))
        own = replace(training.parts, train_loader=batches)
        run(own, training.options, resume=resume)

    train(1)
    with caplog.at_level("WARNING", "lambda_det"):
        train(2, resume=True)
    assert "the loader has no 'seed' and 'start'; images come in a new order" in caplog.text
    with pytest.raises(InputError, match="the loader of the training has no batch for iteration 2"):
        training = make_training(tmp_path, "SOLVER.MAX_ITER", 9)
        run(replace(training.parts, train_loader=[]), training.options, resume=True)
