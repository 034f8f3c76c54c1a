"""What a training notes on its way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage

from lambda_det.engine.progress import WINDOW, PeakGpuMemory


@pytest.mark.parametrize("available", [True, False])
def test_peak_gpu_memory_is_noted_when_the_metrics_are_written(monkeypatch, available):
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 3 * 2**20)
    hook = PeakGpuMemory()
    with EventStorage() as storage:
        for iteration in (0, WINDOW - 1):
            hook.trainer = SimpleNamespace(iter=iteration, storage=storage)
            hook.after_step()
            found = {name: value[0] for name, value in storage.latest().items()}
            noted = available and iteration == WINDOW - 1
            assert found == ({"peak_gpu_memory_mib": 3} if noted else {})
