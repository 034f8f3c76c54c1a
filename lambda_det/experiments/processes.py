"""Processes of a comparison: what they see, how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from lambda_det.configs import ROOT
from lambda_det.engine.launch import cores
from lambda_det.errors import InputError
from lambda_det.records import IN_CHECKOUT

PROJECT = str(ROOT)
"""The root of the checkout, or what stands for it in an installed wheel."""

# Linux sends a process SIGTERM when the one that started it ends (PR_SET_PDEATHSIG is 1). Asked for
# by the new process itself, before it becomes the command: after a fork of a process with threads
# no Python must run in it.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def default_jobs(gpus_per_run: int, device: str = "cuda") -> int:
    """Runs at a time: as many as the GPUs allow; without GPUs, or on the CPU, one for every four
    cores.

    Args:
        gpus_per_run: processes of a run.
        device: MODEL.DEVICE of the runs.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    return max(1, gpus // gpus_per_run if gpus else cores() // 4)


def device_groups(jobs: int, gpus_per_run: int, device: str = "cuda") -> list[str] | None:
    """CUDA_VISIBLE_DEVICES for each job, the GPUs in turn; None where all share what is there.

    Args:
        jobs: runs at a time.
        gpus_per_run: that one trains on.
        device: MODEL.DEVICE of the runs; on the CPU no GPU is asked for.

    Raises:
        InputError: a run is to have more GPUs than there are.
    """
    if device == "cpu":
        return None
    count = torch.cuda.device_count()
    if gpus_per_run > 1 and gpus_per_run > count:
        raise InputError(f"gpus_per_run {gpus_per_run}: PyTorch sees {count} GPUs here")
    if count <= gpus_per_run:
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = named if len(named) == count and all(named) else [str(i) for i in range(count)]
    groups = [
        ",".join(names[start : start + gpus_per_run])
        for start in range(0, count - gpus_per_run + 1, gpus_per_run)
    ]
    return [groups[job % len(groups)] for job in range(jobs)]


def environment_of(jobs: int, device: str | None) -> dict[str, str]:
    """The environment of one of ``jobs`` processes: this checkout's code, a device, and a share of
    the cores."""
    environment = dict(os.environ)
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    own = [PROJECT] if IN_CHECKOUT else []  # a wheel is found as it was by this process
    environment["PYTHONPATH"] = os.pathsep.join([*own, *map(os.path.abspath, paths)])
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    if jobs > 1:  # else each of them starts a thread for every core
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    return environment


def tied(command: Sequence[str]) -> list[str]:
    """The command, made to end when this process ends, however that is killed. On Linux only."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-IS", "-c", _TIED, str(os.getpid()), *command]


def stop(process: subprocess.Popen) -> None:
    """SIGTERM to a process and what it started. (``terminate()`` would reap it, and whoever waits
    for it would not learn how it ended.)"""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)


def wait_for_group(leader: int, seconds: float = 10) -> None:
    """Until no process of a group is left, or for so long."""
    end = time.monotonic() + seconds
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(leader, 0)
            time.sleep(0.02)


def last_line(path: str) -> str:
    """The last line of a log that is not empty."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else "no output"
