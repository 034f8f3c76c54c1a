"""Devices and environment of the processes that train."""

from __future__ import annotations

import os
import subprocess

import pytest

from lambda_det.comparison import processes, run
from lambda_det.comparison.processes import environment_of, job_devices
from lambda_det.errors import InputError


def test_devices_in_turn(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert job_devices(None, 1) == ["0", "1", "2", "3", "4"]
    assert job_devices(None, 2) == ["0,1", "2,3"]
    assert job_devices(6, 1) == ["0", "1", "2", "3", "4", "0"]
    assert job_devices(3, 5) == [None] * 3
    monkeypatch.setattr("lambda_det.comparison.processes.cores", lambda: 13)
    assert job_devices(None, 9, "cpu") == [None] * 3  # the GPUs have no part in it
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "9,8,7,6,5")
    assert job_devices(2, 2) == ["9,8", "7,6"]
    with pytest.raises(InputError, match="gpus_per_run 8: PyTorch sees 5"):
        job_devices(1, 8)
    with pytest.raises(InputError, match="--jobs 0: at least 1"):
        job_devices(0, 1)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert job_devices(4, 1) == [None] * 4
    with pytest.raises(InputError, match="sees 0 GPUs"):
        job_devices(1, 2)


def test_environment_of_a_run(monkeypatch, project):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "here")
    found = environment_of(1000, "3")
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("1", "3")
    assert found["PYTHONPATH"] == os.pathsep.join([str(project), os.path.abspath("here")])
    assert "OMP_NUM_THREADS" not in environment_of(1, None)


def test_a_setpriv_that_cannot_tie_a_command_is_left_out(tmp_path, monkeypatch) -> None:
    """Such as that of RHEL 8, which has no --pdeathsig."""
    (tmp_path / "setpriv").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "setpriv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    processes._death_signal.cache_clear()
    try:
        assert processes.tied(["true"]) == ["true"]
    finally:
        processes._death_signal.cache_clear()


def test_runs_import_the_package_of_this_process(tmp_path) -> None:
    """Also from a folder that has a lambda_det of its own."""
    (tmp_path / "lambda_det").mkdir()
    (tmp_path / "lambda_det" / "__init__.py").write_text("raise SystemExit('another lambda_det')")
    (tmp_path / "lambda_det_command.py").write_text("raise SystemExit('another command')")
    done = subprocess.run(
        [*run._LAMBDA_DET, "--version"], cwd=tmp_path, env=processes.environment_of(1, None),
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split()[:1]) == (0, ["lambda_det"]), done.stderr
