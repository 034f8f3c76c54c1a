"""What a training notes on its way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from lambda_det.engine.progress import WINDOW, PeakGpuMemory


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "cpu"])
def test_peak_gpu_memory_is_noted_when_the_metrics_are_written(monkeypatch, device):
    """On a machine with GPUs: of the one that trains, and nothing of a training on the CPU."""
    peaks = {"cuda": 3 * 2**20, "cuda:1": 2**20}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda at: peaks[str(at)])
    hook = PeakGpuMemory(device)
    with EventStorage() as storage:
        for iteration in (0, WINDOW - 1):
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            hook.after_step()
            found = {name: value[0] for name, value in storage.latest().items()}
            noted = device != "cpu" and iteration == WINDOW - 1
            peak = 1 if device == "cuda:1" else 3
            assert found == ({"peak_gpu_memory_mib": peak} if noted else {})
