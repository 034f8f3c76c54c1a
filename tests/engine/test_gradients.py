"""Gradients that are not finite although the loss is."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.configs import load_config
from lambda_det.engine import step as step_module
from lambda_det.engine.bad_step import replay, write_bad_step
from lambda_det.engine.gradients import any_not_finite, described, names_not_finite
from lambda_det.engine.step import SKIPPED, TrainingStep

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
    step = TrainingStep(model, list(batches(*values)), optimizer, **options)
    with EventStorage() as storage:
        for iteration in range(len(values)):
            step.iter = storage.iter = iteration
            step.run_step()
    return model, step, storage.latest()


def test_stops_before_the_weights_are_poisoned() -> None:
    seen = []

    def on_bad_step(images, losses, random):
        seen.append(losses)
        return "; written"

    model = Steep()
    before = {name: value.clone() for name, value in model.named_parameters()}
    step = TrainingStep(
        model, list(batches(BAD)), torch.optim.SGD(model.parameters(), lr=0.1),
        on_bad_step=on_bad_step,
    )  # fmt: skip
    with EventStorage(7), pytest.raises(FloatingPointError) as caught:
        step.run_step()
    assert str(caught.value) == (
        "iteration 7: the gradient is not finite, the loss is (linear.weight) on 0a, 0b, 0c; "
        "written"
    )
    assert math.isfinite(seen[0]["loss_a"])
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


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="no scaler for a CPU")
def test_infinite_gradients_of_float16_lower_the_scale_first(monkeypatch) -> None:
    """From 4 by halves to 1, and not on to 0 without a word."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    monkeypatch.setattr(step_module, "_grad_scaler", lambda: scaler)
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
    assert not any_not_finite(model.parameters()) and names_not_finite(model) == []
    model[1].weight.grad[6, 4] = value
    assert any_not_finite(model.parameters()) and names_not_finite(model) == ["1.weight"]
    assert names_not_finite(nn.DataParallel(model)) == ["1.weight"]
    assert described(list("abcde")).endswith("(a, b, c and 2 more)")


def test_replays_the_backward_pass(project, tiny_overrides, tmp_path) -> None:
    """Of tiny numbers, which later layers make large, the gradient is too large."""
    config = project / "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    cfg = load_config(str(config), [*tiny_overrides, "MODEL.ROI_HEADS.NUM_CLASSES", "4"])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with torch.no_grad():
        model.roi_heads.box_head.conv1.weight.mul_(1e-36)
        model.roi_heads.box_head.fc1.weight.mul_(1e20)
        model.roi_heads.box_predictor.cls_score.weight.mul_(1e25)
    instances = Instances((64, 80))
    instances.gt_boxes = Boxes(torch.tensor([[5.0, 5.0, 40.0, 50.0]]))
    instances.gt_classes = torch.tensor([2])
    instances.gt_masks = BitMasks(torch.rand(1, 64, 80) > 0.5)
    image = torch.randint(0, 255, (3, 64, 80), dtype=torch.uint8)
    images = [{"file_name": "a.jpg", "image": image, "instances": instances}]
    write_bad_step(str(tmp_path), cfg, model, images, {}, {"cpu": torch.get_rng_state()})
    found, losses, _ = replay(str(tmp_path))
    assert all(map(math.isfinite, losses.values())) and losses
    assert {row["type"] for row in found} == {"gradient"}
    assert "roi_heads.box_head.conv1.weight" in [row["module"] for row in found]
    assert not any("cls_score" in row["module"] for row in found)
