"""Devices and environment of the processes that train."""

from __future__ import annotations

import os

import pytest

from lambda_det.comparison.processes import default_jobs, device_groups, environment_of
from lambda_det.errors import InputError


def test_devices_in_turn(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert default_jobs(1) == 5 and default_jobs(2) == 2
    assert device_groups(6, 1) == ["0", "1", "2", "3", "4", "0"]
    assert device_groups(3, 2) == ["0,1", "2,3", "0,1"]
    assert device_groups(3, 5) is None
    monkeypatch.setattr("lambda_det.comparison.processes.cores", lambda: 13)
    assert default_jobs(1, "cpu") == 3  # the GPUs have no part in it
    assert device_groups(3, 1, "cpu") is None and device_groups(3, 9, "cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9,8,7,6,5")
    assert device_groups(2, 2) == ["9,8", "7,6"]
    with pytest.raises(InputError, match="gpus_per_run 8: PyTorch sees 5"):
        device_groups(1, 8)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device_groups(4, 1) is None and default_jobs(1) >= 1
    with pytest.raises(InputError, match="sees 0 GPUs"):
        device_groups(1, 2)


def test_environment_of_a_run(monkeypatch, project):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "here")
    found = environment_of(1000, "3")
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("1", "3")
    assert found["PYTHONPATH"] == os.pathsep.join([str(project), os.path.abspath("here")])
    assert "OMP_NUM_THREADS" not in environment_of(1, None)
