"""Processes of a comparison: how many at a time, on which devices, with which environment, how they
are started and ended, and the lock that keeps two of them out of one folder."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

import psutil
import torch

from lambda_det.engine.launch import cores
from lambda_det.errors import InputError, writing
from lambda_det.records import IN_CHECKOUT
from lambda_det.shipped_configs import ROOT

PROJECT = str(ROOT)
"""The root of the checkout; in an installed wheel, the folder with the shipped configs."""

_GRACE = 5  # seconds that a command has to end after a signal


def job_devices(jobs: int | None, gpus_per_run: int, device: str = "cuda") -> list[str | None]:
    """The values of CUDA_VISIBLE_DEVICES of the jobs that run at a time, one for each of them.

    The jobs take the GPUs in turn. None leaves the variable as it is: on a CPU (``device``, the
    MODEL.DEVICE of the runs), and where all jobs share all GPUs.

    Args:
        jobs: number of jobs; None means as many as the GPUs allow, or else one per four cores.
        gpus_per_run: number of GPUs of each job.
        device: MODEL.DEVICE of the runs.

    Raises:
        InputError: ``jobs`` is below 1, or a run needs more GPUs than PyTorch sees.
    """
    count = 0 if device == "cpu" else torch.cuda.device_count()
    if jobs is None:
        jobs = max(1, count // gpus_per_run if count else cores() // 4)
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
    if 1 < gpus_per_run > count and device != "cpu":
        raise InputError(f"gpus_per_run {gpus_per_run}: PyTorch sees {count} GPUs here")
    if count <= gpus_per_run:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = named if len(named) == count and all(named) else [str(i) for i in range(count)]
    groups = [
        ",".join(names[start : start + gpus_per_run])
        for start in range(0, count - gpus_per_run + 1, gpus_per_run)
    ]
    return [groups[job % len(groups)] for job in range(jobs)]


def environment_of(jobs: int, device: str | None) -> dict[str, str]:
    """The environment variables of one of ``jobs`` processes: this checkout's code, a value of
    CUDA_VISIBLE_DEVICES (None leaves it as it is), and a share of the cores."""
    environment = dict(os.environ)
    paths = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    own = [PROJECT] if IN_CHECKOUT else []  # an installed wheel is found without it
    environment["PYTHONPATH"] = os.pathsep.join([*own, *map(os.path.abspath, paths)])
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    if jobs > 1:  # otherwise each would start a thread for every core
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    return environment


def start(
    command: Sequence[str] | str,
    log_path: str,
    *,
    mode: str = "a",
    jobs: int = 1,
    device: str | None = None,
    lock: int | None = None,
) -> subprocess.Popen:
    """Start a command in a session of its own, so that it can be ended with all it has started.

    Args:
        command: arguments of a program; or a command of a suite, which is run by a shell in the
            root of the checkout.
        log_path: file that the output goes to.
        mode: ``"a"`` appends to that file, ``"w"`` empties it first.
        jobs, device: see :func:`environment_of`.
        lock: descriptor of a file that stays locked until the process ends.

    Raises:
        InputError: the log cannot be written.
    """
    in_shell = isinstance(command, str)
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else command
    with writing(log_path):
        log = open(log_path, mode, encoding="utf-8")  # noqa: SIM115
    with log:
        return subprocess.Popen(
            tied(arguments), cwd=PROJECT if in_shell else None, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, env=environment_of(jobs, device),
            pass_fds=() if lock is None else (lock,), start_new_session=True,
        )  # fmt: skip


def run_to_end(command: Sequence[str] | str, log_path: str, *, mode: str = "a") -> int:
    """:func:`start` a command, and return its exit status. If a signal handler of this process
    raises meanwhile, the command is ended."""
    process = start(command, log_path, mode=mode)
    try:
        return process.wait()
    except BaseException:
        # SIGINT comes first, as from Ctrl-C, so that a command may remove what is half written.
        end_session(process.pid, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL), _GRACE)
        process.wait()
        raise


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


def signal_session(leader: int, number: int) -> None:
    """Send a signal to a process that :func:`start` started and to all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all of them have ended
        os.killpg(leader, number)


def end_session(
    leader: int, numbers: Sequence[int] = (signal.SIGTERM,), seconds: float = 10
) -> None:
    """Send signals, one after the other and waiting after each, to a process that :func:`start`
    started and to all that it has started, until they have ended."""
    for number in numbers:
        signal_session(leader, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not _is_alive(leader):
                return
            time.sleep(0.02)


def _is_alive(leader: int) -> bool:
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):  # the process has ended meanwhile
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def last_line(path: str) -> str:
    """The last line of a log that is not empty; "no output" if there is none."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else "no output"


@contextlib.contextmanager
def locked(folder: str, *, wait: bool = True) -> Iterator[int | None]:
    """Make a folder if it does not exist, and hold its lock in the ``with`` block.

    Yields:
        The descriptor of the locked file; None if another process holds the lock, unless this is to
        ``wait`` for it.

    Raises:
        InputError: the folder cannot be written or locked.
    """
    path = os.path.join(folder, "lock")
    with writing(folder):
        os.makedirs(folder, exist_ok=True)
    with writing(path):
        file = open(path, "w")  # noqa: SIM115
    with file:
        held: int | None = file.fileno()
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = None
        except OSError as error:
            raise InputError(f"{path} cannot be locked: {error.strerror}") from error
        yield held
