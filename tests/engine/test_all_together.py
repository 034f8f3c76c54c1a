"""Accumulation, average, left-out steps, best checkpoint and a broken-off evaluation in one run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from lambda_det.engine.interruption import TrainingInterrupted

pytestmark = [
    pytest.mark.slow,  # trainings
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
KEYS = (
    "SOLVER.MAX_ITER", 7, "SOLVER.ACCUMULATE", 2, "SOLVER.EMA_DECAY", 0.75,
    "SOLVER.MAX_SKIPPED_STEPS", 3, "SOLVER.CHECKPOINT_PERIOD", 3, "SOLVER.CHECKPOINT_KEEP", 2,
    "TEST.EVAL_PERIOD", 3, "TEST.BEST_METRIC", "bbox/AP",
    "DATASETS.TEST", "('coco_folder_val2017',)", "DATALOADER.NUM_WORKERS", 0,
)  # fmt: skip
BAD = (0, 2, 6)  # iterations whose loss is NaN: the first one, one at a checkpoint, the last one
STOPPED = 5  # in whose evaluation the signal comes


class Disturbance(HookBase):
    """Spoils the losses of some iterations; its evaluation gives the numbers of the weights."""

    def __init__(self, model: nn.Module, *, stops: bool = False) -> None:
        self._stops = stops
        model.register_forward_hook(self._spoil)

    def _spoil(self, model, images, losses):
        if model.training and self.trainer.iter in BAD:
            return {name: loss * float("nan") for name, loss in losses.items()}

    def evaluate(self, model: nn.Module) -> dict:
        if self._stops and self.trainer.iter == STOPPED:
            signal.raise_signal(signal.SIGTERM)
        value = model.backbone.fpn_lateral4.weight.sum().item() / 1e3
        return {"bbox": {"AP": value - self.trainer.iter}}


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and k != "eta_seconds"}
            for line in found]  # fmt: skip


def test_it_resumes_exactly(make_training, tmp_path, log) -> None:
    def train(folder: Path, *, resume: bool = False, stops: bool = False) -> Disturbance:
        training = make_training(folder, *KEYS)
        disturbance = Disturbance(training.parts.model, stops=stops)
        training.parts.evaluate = disturbance.evaluate
        training.train(resume=resume, hooks=[disturbance])
        return disturbance

    one, other = tmp_path / "one", tmp_path / "other"
    train(one)
    end = "3 of 7 iterations were left out, because a loss, a gradient or a proposal was not finite"
    (line,) = [r.getMessage() for r in log.records if "were left out" in r.getMessage()]
    assert line == f"{end} (SOLVER.MAX_SKIPPED_STEPS 3)"
    with pytest.raises(TrainingInterrupted):
        train(other, stops=True)
    log.clear()
    train(other, resume=True)
    assert f"model_{STOPPED:07d}.pth, after iteration {STOPPED + 1}" in log.text
    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        a, b = (torch.load(folder / name) for folder in (one, other))
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"]), name
        assert {k: a[k] for k in ("iteration", "metric", "value") if k in a} == {
            k: b[k] for k in ("iteration", "metric", "value") if k in b
        }
    assert torch.load(other / "model_final.pth")["trainer"]["skipped_steps"] == 3
    assert torch.load(other / "model_best.pth")["iteration"] == 2
    # Of the evaluation that was broken off nothing is said later.
    assert lines(one)[-1] == lines(other)[-1]
