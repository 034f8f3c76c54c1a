"""Processes of a comparison: their number, their environment, and how they are ended."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Sequence

import psutil
import torch

from lambda_det.engine.launch import cores
from lambda_det.errors import InputError
from lambda_det.records import IN_CHECKOUT
from lambda_det.shipped_configs import ROOT

PROJECT = str(ROOT)
"""The root of the checkout; in an installed wheel, the folder with the shipped configs."""


def default_jobs(gpus_per_run: int, device: str = "cuda") -> int:
    """Number of runs at a time: as many as the GPUs allow; without GPUs, or on the CPU, one per
    four cores.

    Args:
        gpus_per_run: number of GPUs (and processes) of a run.
        device: MODEL.DEVICE of the runs.

    Returns:
        At least 1.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    return max(1, gpus // gpus_per_run if gpus else cores() // 4)


def device_groups(jobs: int, gpus_per_run: int, device: str = "cuda") -> list[str] | None:
    """CUDA_VISIBLE_DEVICES of each job, the GPUs in turn; None if all jobs share all devices.

    Args:
        jobs: number of runs at a time.
        gpus_per_run: number of GPUs that one run trains on.
        device: MODEL.DEVICE of the runs; runs on the CPU get no GPU.

    Raises:
        InputError: a run needs more GPUs than PyTorch sees.
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
    """The environment variables of one of ``jobs`` processes: this checkout's code, a device, and a
    share of the cores.

    Args:
        jobs: number of processes at a time.
        device: value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
    """
    environment = dict(os.environ)
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    own = [PROJECT] if IN_CHECKOUT else []  # an installed wheel is found without it
    environment["PYTHONPATH"] = os.pathsep.join([*own, *map(os.path.abspath, paths)])
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    if jobs > 1:  # otherwise each would start a thread for every core
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    return environment


def tied(command: Sequence[str]) -> list[str]:
    """Wrap a command so that it gets SIGTERM when this process ends, however this process is
    killed. This needs Linux and a ``setpriv`` (util-linux) with ``--pdeathsig``; otherwise the
    command is returned as it is."""
    return [*_death_signal(), *command]


@functools.cache
def _death_signal() -> tuple[str, ...]:
    """Return the words before a command that tie it; none if the system cannot do it."""
    words = ("setpriv", "--pdeathsig", "TERM", "--")
    try:
        done = subprocess.run([*words, "true"], capture_output=True)
    except OSError:
        return ()
    return words if done.returncode == 0 else ()


def signal_session(leader: int, number: int) -> list[psutil.Process]:
    """Send a signal to every process of a session, and return those processes.

    Args:
        leader: id of a process that was started with ``start_new_session=True``.
        number: number of the signal; 0 only tests which processes are alive.
    """
    alive = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # the process has ended meanwhile
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                process.send_signal(number)
                alive.append(process)
    return alive


def end_session(
    leader: int, numbers: Sequence[int] = (signal.SIGTERM,), seconds: float = 10
) -> None:
    """Send signals, one after the other, to a process and all processes it has started, until they
    have ended.

    Args:
        leader: id of a process that was started with ``start_new_session=True``.
        numbers: the signals, in order.
        seconds: how long to wait after each signal.
    """
    for number in numbers:
        signal_session(leader, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not signal_session(leader, 0):
                return
            time.sleep(0.02)


def last_line(path: str) -> str:
    """The last line of a log that is not empty; "no output" if there is none."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else "no output"
