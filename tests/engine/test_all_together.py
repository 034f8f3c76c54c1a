"""Accumulation, average, left-out steps, best checkpoint and a broken-off evaluation in one run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from lambda_det.engine import Trainer
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


class Disturbed(Trainer):
    """Its results are the numbers of its weights."""

    stops = False

    def before_train(self) -> None:
        super().before_train()
        self.model.register_forward_hook(self._spoil)

    def _spoil(self, model, images, losses):
        if model.training and self.iter in BAD:
            return {name: loss * float("nan") for name, loss in losses.items()}

    def test(self, cfg, model):
        if self.stops and self.iter == STOPPED:
            signal.raise_signal(signal.SIGTERM)
        return {"bbox": {"AP": -self.iter + model.backbone.fpn_lateral4.weight.sum().item() / 1e3}}


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and k != "eta_seconds"}
            for line in found]  # fmt: skip


def test_it_resumes_exactly(make_trainer, tmp_path, log) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    make_trainer(one, *KEYS, cls=Disturbed).train()
    end = "3 of 7 iterations were left out, because a loss, a gradient or a proposal was not finite"
    (line,) = [r.getMessage() for r in log.records if "were left out" in r.getMessage()]
    assert line == f"{end} (SOLVER.MAX_SKIPPED_STEPS 3)"
    trainer = make_trainer(other, *KEYS, cls=Disturbed)
    trainer.stops = True
    with pytest.raises(TrainingInterrupted):
        trainer.train()
    trainer = make_trainer(other, *KEYS, cls=Disturbed)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == STOPPED + 1
    trainer.train()
    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        a, b = (torch.load(folder / name) for folder in (one, other))
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"]), name
        assert {k: a[k] for k in ("iteration", "metric", "value") if k in a} == {
            k: b[k] for k in ("iteration", "metric", "value") if k in b
        }
    assert torch.load(other / "model_final.pth")["trainer"]["_trainer"]["skipped_steps"] == 3
    assert torch.load(other / "model_best.pth")["iteration"] == 2
    # Of the evaluation that was broken off nothing is said later.
    assert lines(one)[-1] == lines(other)[-1]
