"""Gradients that are not finite although the loss is."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.engine.nonfinite import any_not_finite, describe_gradients
from lambda_det.engine.trainer import SKIPPED, Trainer

BAD = 100.0


class Steep(nn.Module):
    """Its loss is finite always, its gradient infinite or NaN at images of :data:`BAD`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.linear, self.unused = nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, images):
        x = torch.stack([image["image"] for image in images])
        loss = self.linear(self.norm(x)).float().square().mean()
        steep = (0.0 * self.linear.weight.float()).sum().sqrt()  # 0, and 0 · infinity behind it
        return {"loss_a": loss + steep if x.max() >= BAD else loss}


def batches(*values: float):
    generator = torch.Generator().manual_seed(0)
    for number, value in enumerate(values):
        images = torch.rand(3, 5, generator=generator)
        images[0, 0] = value
        yield [
            {"image": x, "file_name": f"{number}{n}"} for x, n in zip(images, "abc", strict=True)
        ]


def run(*values: float, **options):
    model = Steep()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = Trainer(model, list(batches(*values)), optimizer, **options)
    with EventStorage() as storage:
        for iteration in range(len(values)):
            step.iter = storage.iter = iteration
            step.run_step()
    return model, step, storage.latest()


def test_stops_before_the_weights_are_poisoned() -> None:
    model = Steep()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, list(batches(BAD)), optimizer)
    with EventStorage(7), pytest.raises(FloatingPointError) as caught:
        trainer.run_step()
    assert str(caught.value) == (
        "iteration 7: the gradient is not finite, the loss is (linear.weight) on 0a, 0b, 0c"
    )
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_leaves_out_such_a_step(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        model, step, latest = run(1, BAD, 2, max_skipped=1)
    assert step.skipped == 1 and latest[SKIPPED][0] == 1
    assert "iteration 1 left out (1 of at most 1): the gradient is not finite" in caplog.text
    expected = Steep()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for number, images in enumerate(batches(1, BAD, 2)):
        if number != 1:
            optimizer.zero_grad()
            expected(images)["loss_a"].backward()
            optimizer.step()
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_infinite_gradients_of_float16_lower_the_scale_first(monkeypatch) -> None:
    """From 4 by halves to 1, and not on to 0 without a word."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler)
    model, step, _ = run(BAD, BAD, precision=torch.float16)
    assert scaler.get_scale() == 1 and step.skipped == 0
    assert torch.equal(model.linear.weight, Steep().linear.weight)
    scaler.update(4.0)
    with pytest.raises(FloatingPointError, match=r"^iteration 2: the gradient is not finite"):
        run(BAD, BAD, BAD, precision=torch.float16)
    scaler.update(4.0)
    model, step, _ = run(BAD, BAD, BAD, BAD, 1, precision=torch.float16, max_skipped=2)
    assert step.skipped == 2 and not torch.equal(model.linear.weight, Steep().linear.weight)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_among_many_is_found(value) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7), nn.Linear(7, 1), nn.Linear(1, 1))
    assert not any_not_finite(model.parameters())  # without gradients
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, -3e38)  # whose squares are infinite
    assert not any_not_finite(model.parameters())
    model[1].weight.grad[6, 4] = value
    assert any_not_finite(model.parameters())
    for one in (model, nn.DataParallel(model)):
        assert describe_gradients(one).endswith("the loss is (1.weight)")
    for parameter in model.parameters():
        parameter.grad.fill_(value)
    assert describe_gradients(model).endswith("(0.weight, 0.bias, 1.weight and 5 more)")
