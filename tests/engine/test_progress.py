"""What a training notes on its way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from lambda_det.engine.progress import (
    KEPT,
    WINDOW,
    PeakGpuMemory,
    ShortHistories,
    progress_line,
)
from lambda_det.engine.trainer import SKIPPED


def test_a_long_training_keeps_the_last_values_only():
    hook = ShortHistories()
    with EventStorage() as storage:
        for iteration in range(3 * KEPT + 5):
            storage.put_scalars(total_loss=float(iteration), loss_cls=1.0)
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            before = progress_line(storage, 10**6)
            hook.after_step()
            assert progress_line(storage, 10**6) == before
            assert all(len(h.values()) < 2 * KEPT for h in storage.histories().values())
            storage.step()
        values = storage.history("total_loss").values()
        assert values == [(float(i), i) for i in range(2 * KEPT, 3 * KEPT + 5)]
        assert storage.history("total_loss").global_avg() == pytest.approx((3 * KEPT + 4) / 2)


def test_what_was_left_out_is_in_the_line_from_then_on():
    with EventStorage() as storage:
        storage.put_scalars(total_loss=1.0, lr=0.1)
        assert "left out" not in progress_line(storage, 5)
        storage.put_scalar(SKIPPED, 2, smoothing_hint=False)
        storage.step()
        assert progress_line(storage, 5).endswith(" | lr 0.1 | left out 2")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cpu"])
def test_peak_gpu_memory_is_noted_when_the_metrics_are_written(monkeypatch, device):
    """On a machine with GPUs: of the one that trains, and nothing of a training on the CPU."""
    peaks = {"cuda": 3 * 2**20, "cuda:1": 2**20}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda at: peaks[str(at)])
    parameter = SimpleNamespace(device=torch.device(device))
    model = SimpleNamespace(parameters=lambda: iter([parameter]))
    hook = PeakGpuMemory()
    with EventStorage() as storage:
        for iteration in (0, WINDOW - 1):
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage, model=model)
            hook.after_step()
            found = {name: value[0] for name, value in storage.latest().items()}
            noted = device != "cpu" and iteration == WINDOW - 1
            peak = 1 if device == "cuda:1" else 3
            assert found == ({"peak_gpu_memory_mib": peak} if noted else {})
