"""The trainer's step: precision, losses that are not finite, and its state."""

from __future__ import annotations

import logging
import math
import re

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.engine.trainer import SKIPPED, Trainer


class Model(nn.Module):
    """Loss: the mean of a linear layer behind a BatchNorm; remembers the layer's type."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.linear = nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, images):
        x = self.linear(self.norm(torch.stack([image["image"] for image in images])))
        self.dtype = x.dtype
        return {"loss_a": x.float().square().mean(), "loss_b": x.float().abs().mean()}


def batches(*factors: float):
    generator = torch.Generator().manual_seed(0)
    for number, factor in enumerate(factors):
        yield [
            {"image": factor * torch.randn(5, generator=generator), "file_name": f"{number}{name}"}
            for name in "abc"
        ]


def run(kind, *factors: float, **options):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = kind(model, list(batches(*factors)), optimizer, **options)
    metrics = []
    with EventStorage() as storage:
        for iteration in range(len(factors)):
            step.iter = storage.iter = iteration
            step.run_step()
            metrics.append({name: value for name, (value, _) in storage.latest().items()})
    return model, step, metrics


def test_in_float32_it_is_detectron2s_step() -> None:
    model, _, metrics = run(Trainer, 1, 2, 3)
    expected, _, expected_metrics = run(SimpleTrainer, 1, 2, 3)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert [m["total_loss"] for m in metrics] == [m["total_loss"] for m in expected_metrics]


def test_bfloat16_on_a_cpu() -> None:
    model, _, metrics = run(Trainer, 1, 1, precision=torch.bfloat16)
    plain, _, expected = run(Trainer, 1, 1)
    assert model.dtype is torch.bfloat16 and plain.dtype is torch.float32
    assert model.linear.weight.dtype is torch.float32
    losses = [m["total_loss"] for m in metrics]
    assert losses == pytest.approx([m["total_loss"] for m in expected], rel=2e-2)
    assert losses != [m["total_loss"] for m in expected]


def test_stops_at_a_loss_that_is_not_finite() -> None:
    with pytest.raises(FloatingPointError) as caught:
        run(Trainer, 1, math.nan)
    line = "iteration 1: the loss is not finite (loss_a nan, loss_b nan) on 1a, 1b, 1c"
    assert str(caught.value) == line  # the images are not finite, so no module is to blame


def test_names_the_first_module_whose_output_is_not_finite() -> None:
    model = Model()
    nn.init.constant_(model.linear.weight, 3e38)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, list(batches(1)), optimizer)
    with EventStorage(4), pytest.raises(FloatingPointError) as caught:
        trainer.run_step()
    said = str(caught.value).partition(" on 0a, 0b, 0c; ")[2]
    start = r"the first module whose output is not finite: linear \(Linear, largest input 1\.\d+\)"
    assert re.fullmatch(start, said)


def test_leaves_out_as_many_steps_as_allowed(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        model, step, metrics = run(Trainer, 1, math.nan, 2, math.inf, max_skipped=2)
    plain, *_ = run(Trainer, 1)
    assert step.skipped == 2 and metrics[-1][SKIPPED] == 2
    assert (
        "iteration 1 left out (1 of at most 2): the loss is not finite (loss_a nan" in caplog.text
    )
    assert "loss_b nan) on 1a, 1b, 1c" in caplog.text
    # Neither weights nor running statistics are touched by what was left out.
    generator = list(batches(1, math.nan, 2, math.inf))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    optimizer.zero_grad()
    sum(plain(generator[2]).values()).backward()
    optimizer.step()
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(FloatingPointError, match="iteration 2: the loss is not finite"):
        run(Trainer, 1, math.nan, math.nan, max_skipped=1)


class Diverged(Model):
    """Raises where detectron2's proposal generator does."""

    def forward(self, images):
        losses = super().forward(images)
        if not torch.isfinite(losses["loss_a"]):
            raise FloatingPointError("Predicted boxes contain NaN.")
        return losses


def test_proposals_that_are_not_finite(monkeypatch, caplog) -> None:
    monkeypatch.setitem(globals(), "Model", Diverged)
    with pytest.raises(FloatingPointError, match=r"iteration 1: Predicted .*NaN\. on 1a, 1b, 1c$"):
        run(Trainer, 1, math.nan)
    with caplog.at_level(logging.WARNING):
        _, step, _ = run(Trainer, 1, math.nan, 2, max_skipped=1)
    assert step.skipped == 1 and "iteration 1 left out (1 of at most 1): Predicted" in caplog.text


def test_the_count_goes_on_after_a_resume() -> None:
    _, step, _ = run(Trainer, 1, math.nan, max_skipped=1)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0)
    other = Trainer(model, list(batches(2)), optimizer, max_skipped=1)
    other.load_state_dict(step.state_dict())
    assert other.skipped == 1
    with EventStorage() as storage:  # as it is in every line of the resumed run
        other.run_step()
        assert storage.latest()[SKIPPED][0] == 1
