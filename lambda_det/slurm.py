"""A training as a job of SLURM, through submitit: one task for each process.

A job that is pre-empted or whose time is up finishes its iteration, saves, and is queued again with
``--resume``.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from lambda_det.engine.interruption import TrainingInterrupted
from lambda_det.errors import InputError, reason_of

if TYPE_CHECKING:
    import submitit

CLUSTERS = ("slurm", "local", "debug")
"""``local`` runs the tasks as processes of this machine, ``debug`` one in this process."""

SIGNAL_S = 120
"""Seconds before the end of its time at which a job is told."""

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")


class TrainingJob:
    """What each task of the job runs.

    Args:
        train_net: ``main(argv)`` of the command that trains.
        arguments: its ``argv``.
    """

    def __init__(
        self, train_net: Callable[[list[str]], int | None], arguments: Sequence[str]
    ) -> None:
        self._train_net, self._arguments = train_net, list(arguments)
        self._requeue = False

    def __call__(self) -> int:
        """Train; the exit status of ``train_net``, with which a task of SLURM ends."""
        submitit = import_submitit()
        job = submitit.JobEnvironment()
        submitit.helpers.TorchDistributedEnvironment().export(
            set_cuda_visible_devices=False, overwrite=True
        )
        if job.num_nodes == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # not every machine finds its own name
        usr = signal.Signals[f"SIG{job.USR_SIG}"]
        ask_for_requeue = signal.getsignal(usr)
        idle, process = signal.getsignal(signal.SIGTERM), os.getpid()

        def finish_first(signum: int, frame: FrameType | None) -> None:
            if os.getpid() != process:  # a loader's worker, which has this from its parent
                return
            if signal.getsignal(signal.SIGTERM) is idle:  # there is nothing to be saved
                ask_for_requeue(signum, frame)
                return
            self._requeue = True
            signal.raise_signal(signal.SIGTERM)

        if callable(ask_for_requeue):  # submitit listens, but in "debug"
            signal.signal(usr, finish_first)
        # Pre-empted without the signal before it, the scheduler starts the first job once more.
        restarted = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        status = self._train([*["--resume"] * restarted, *self._arguments])
        if self._requeue and status is None:
            ask_for_requeue(usr, None)  # ends the first task, after it has told the scheduler
        if status and job.cluster == "slurm":
            raise SystemExit(status)
        return status or 0

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit queues in place of an unfinished job."""
        resumed = [word for word in self._arguments if word != "--resume"]
        again = type(self)(self._train_net, ["--resume", *resumed])
        return import_submitit().helpers.DelayedSubmission(again)

    def _train(self, arguments: list[str]) -> int | None:
        """The status; None of a training that the signal of this job has ended."""
        try:
            return self._train_net(arguments)
        except TrainingInterrupted as stop:
            return None if self._requeue else int(stop.code)


def import_submitit():
    """The package.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise InputError(
            "jobs of SLURM need the package submitit (pip install 'lambda_det[slurm]')"
        ) from error


def submit(
    job: TrainingJob,
    folder: str,
    *,
    cluster: str,
    nodes: int,
    processes: int,
    gpus: int,
    minutes: int,
    name: str,
    requeues: int,
    **slurm: object,
) -> submitit.Job:
    """Queue a training.

    Args:
        job: it.
        folder: where submitit keeps the job and its output.
        cluster: one of :data:`CLUSTERS`.
        nodes, processes, gpus: machines; tasks and GPUs on each.
        minutes: until the job must give its place to others.
        name: in the queue.
        requeues: how many times the job may run out of its time.
        slurm: options of ``sbatch`` without their dashes; None leaves one out.

    Raises:
        InputError: submitit is not installed, or refuses.
    """
    submitit = import_submitit()
    try:
        executor = submitit.AutoExecutor(
            folder,
            cluster=cluster,
            slurm_max_num_timeout=requeues,
            local_max_num_timeout=requeues,
        )
        executor.update_parameters(
            name=name,
            nodes=nodes,
            tasks_per_node=processes,
            gpus_per_node=gpus,
            timeout_min=minutes,
            slurm_signal_delay_s=SIGNAL_S,
            **{f"slurm_{key}": value for key, value in slurm.items() if value is not None},
        )
        return executor.submit(job)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--cluster {cluster}: {reason_of(error)}") from error


def minutes_of(text: str) -> int:
    """sbatch's forms (``[DAYS-]HOURS:MINUTES:SECONDS``, ``DAYS-HOURS[:MINUTES]``,
    ``MINUTES[:SECONDS]``), rounded up.

    Raises:
        InputError: it is none of these, or no time.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        allowed = "HOURS:MINUTES:SECONDS, DAYS-HOURS:MINUTES, MINUTES:SECONDS or MINUTES"
        raise InputError(f"--time {text!r}: expected {allowed}")
    days, *parts = match.groups()
    if days is None and parts[2] is None:  # no hours
        parts = ["0", *parts[:2]]
    hours, minutes, seconds = (int(part or 0) for part in parts)
    total = 1440 * int(days or 0) + 60 * hours + minutes + (seconds > 0)
    if total < 1:
        raise InputError(f"--time {text!r}: expected at least a minute")
    return total
