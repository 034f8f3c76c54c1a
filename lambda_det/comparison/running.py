"""Runs a suite in processes. Finished runs are skipped, begun runs start again, and a failed run
does not stop the others."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lambda_det.comparison.controls import NAMED_STAGES
from lambda_det.comparison.data_digest import DATA, data_of
from lambda_det.comparison.objects_found import found_by
from lambda_det.comparison.preparing import prepare
from lambda_det.comparison.processes import (
    PROJECT,
    end_session,
    job_devices,
    last_line,
    locked,
    signal_session,
    start,
)
from lambda_det.comparison.results import keep, zeroed_metrics, zeroed_missing
from lambda_det.comparison.run import (
    Run,
    final_weights,
    half_written,
    train_command,
    zeroed_command,
)
from lambda_det.comparison.run_files import (
    FAILED,
    FAILED_FILE,
    FINISHED,
    FINISHED_FILE,
    RUN_FILE,
    STARTED,
    clear,
    description,
    facts_of,
    state_of,
    write_facts,
)
from lambda_det.comparison.settings import changed_settings
from lambda_det.comparison.suite import Suite
from lambda_det.engine.interruption import INTERRUPTED_FILE
from lambda_det.engine.summary import read_summary
from lambda_det.errors import InputError, writing
from lambda_det.evaluation.metrics import METRICS_FILE
from lambda_det.records import make_record

logger = logging.getLogger(__name__)


def execute(
    suite: Suite, output: str, *, jobs: int | None = None, only: Sequence[Run] | None = None
) -> dict[Run, str]:
    """Run the runs that have not finished.

    A run whose process ends with an error becomes ``failed``, and the others go on; the next call
    tries it again. The same holds for the evaluation with zeroed branches, except that a run counts
    as finished without it. If several processes call this at the same time, only one of them works
    on a run. The processes of the runs end with this one.

    Args:
        suite, output: the suite, and the folder of the comparison.
        jobs: number of runs at a time; None means as many as
            :func:`~lambda_det.comparison.processes.job_devices` says.
        only: the runs to run; None means all.

    Returns:
        The state of every run of the suite, as :func:`~lambda_det.comparison.run_files.state_of`
        returns it.

    Raises:
        InputError: ``jobs`` is below 1, a command of ``prepare`` fails, or a folder contains a run
            with other settings or cannot be written. In the last two cases no further run begins,
            and the error is raised after the trainings in progress have ended.
    """
    first = suite.runs[0]
    devices = job_devices(jobs, first.gpus, str(first.settings["MODEL.DEVICE"]))
    states = {run: state_of(run) for run in suite.runs}
    waiting = [
        run
        for run in only or suite.runs
        if states[run] != FINISHED or zeroed_missing(run) is not None
    ]
    finished = sum(state == FINISHED for state in states.values())
    logger.info("%d runs, %d finished already", len(states), finished)
    if without := sum(run.without for run in waiting):
        logger.info(
            "%d of them train without the residual branches of %s, as a control (set "
            "'controls: [zeroed]' in the suite to leave these trainings out)",
            without, NAMED_STAGES,
        )  # fmt: skip
    if not waiting:
        return states
    prepare(suite, output)
    workers = _Workers(devices)
    pool = ThreadPoolExecutor(max_workers=len(devices))
    try:
        attempts = pool.map(lambda run: (run, workers.work(run, states[run])), waiting)
        for done, (run, state) in enumerate(attempts, start=1):
            logger.info("%d of %d: %s %s", done, len(waiting), run.name, state)
        if workers.errors:
            raise workers.errors[0]
    finally:  # also on Ctrl-C
        workers.stop()
        pool.shutdown(cancel_futures=True)
    # The states are read again, because other processes may have worked in a shared folder.
    return {run: state_of(run) for run in suite.runs}


Call = Callable[..., int]
"""Runs a command on the device of a worker, with its output in a log, and returns its status."""


class _Workers:
    """The threads that work on the runs. Each of them runs one process at a time."""

    def __init__(self, devices: list[str | None]) -> None:
        self.jobs = len(devices)
        self.free = list(devices)  # CUDA_VISIBLE_DEVICES of the jobs that have no run
        self.stopping = threading.Event()  # the comparison is to end
        self.processes: set[subprocess.Popen] = set()  # those that are running
        self.errors: list[InputError] = []  # they keep further runs from beginning

    def work(self, run: Run, state: str) -> str:
        """Attempt a run, and return its state afterwards."""
        if self.stopping.is_set() or self.errors:
            return state
        device = self.free.pop()
        try:
            with locked(run.folder, wait=False) as lock:
                if lock is None:
                    logger.warning("%s: another process is working on this run", run.folder)
                    return STARTED
                return self._attempt(run, functools.partial(self._call, device=device, lock=lock))
        except InputError as error:  # a full disk, say
            self.errors.append(error)  # execute raises it after the other runs have ended
            return STARTED
        finally:
            self.free.append(device)

    def stop(self) -> None:
        """End the running processes with SIGTERM, and let no other begin."""
        self.stopping.set()
        for process in list(self.processes):
            signal_session(process.pid, signal.SIGTERM)

    def _attempt(self, run: Run, call: Call) -> str:
        state = state_of(run)  # another process may have finished the run since it was read
        if state != FINISHED:
            state = self._train(run, call)
        if state == FINISHED:
            if zeroed_missing(run) is not None:
                self._evaluate_zeroed(run, call)
            keep(run)
            self._finish(run, call)
        return state

    def _finish(self, run: Run, call: Call) -> None:
        """Run the suite's command for a finished run. If it fails, the run stays finished."""
        log_path = os.path.join(run.folder, "finish.log")
        if run.finish and not self.stopping.is_set() and call(run.finish, log_path, mode="w"):
            logger.error("%s, finish: %s (%s)", run.name, last_line(log_path), log_path)

    def _train(self, run: Run, call: Call) -> str:
        known = {
            "settings": run.settings, "changed": changed_settings(run.settings), "seed": run.seed,
            "attempts": (description(run) or {}).get("attempts", 0) + 1, DATA: data_of(run),
        }  # fmt: skip
        with writing(run.folder):
            clear(run)
        write_facts(known, run.folder, RUN_FILE)
        log_path = os.path.join(run.folder, "output.log")
        logger.info("%s ... (%s)", run.name, log_path)
        facts: dict[str, object] = {"attempts": known["attempts"]}
        reason = self._pretrain(run, call) if run.pretrain else ""
        if not reason and not self.stopping.is_set():
            resumed, record = _is_resumed(run), _record(run)  # before the checkout may change
            started = time.monotonic()
            status = call(train_command(run), log_path)
            facts |= {
                "exit_status": status,
                "resumed": resumed,
                "last_attempt_s": round(time.monotonic() - started, 1),
                "peak_host_memory_mib": read_summary(run.folder).get("peak_host_memory_mib"),
                "jobs": self.jobs,
                "gpus": run.gpus,
            }
            reason = _why_unfinished(run, status, log_path)
        if self.stopping.is_set():
            return STARTED
        if reason:
            logger.error("%s has failed: %s (%s)", run.name, reason, run.folder)
            write_facts(facts | {"reason": reason}, run.folder, FAILED_FILE)
            return FAILED
        write_facts(facts | {"record": record, **found_by(run)}, run.folder, FINISHED_FILE)
        return FINISHED

    def _pretrain(self, run: Run, call: Call) -> str:
        """Make the weights that a run starts from, unless they exist; return why it failed, or
        ""."""
        if os.path.isfile(run.weights) or _is_resumed(run):
            return ""
        log_path, part = f"{run.weights}.log", half_written(run.weights)
        with writing(part), contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        logger.info("%s, pretraining ... (%s)", run.name, log_path)
        status = call(run.pretrain, log_path, mode="w")
        if status:
            return f"pretraining: {last_line(log_path)}"
        if not os.path.isfile(part):
            return f"pretraining: no {part}"
        if not self.stopping.is_set():
            with writing(run.weights):
                os.replace(part, run.weights)
        return ""

    def _evaluate_zeroed(self, run: Run, call: Call) -> None:
        """Evaluate a finished run with zeroed branches. A failure is recorded, and the run stays
        finished."""
        folder = run.zeroed_folder
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        weights, log_path = final_weights(run), os.path.join(folder, "output.log")
        logger.info("%s, %s zeroed ... (%s)", run.name, NAMED_STAGES, log_path)
        if os.path.isfile(weights):
            status = call(zeroed_command(run), log_path)
            reason = last_line(log_path) if status else f"no {METRICS_FILE} in {folder}"
        else:
            reason = f"{weights} is missing"
        if not self.stopping.is_set() and zeroed_metrics(run) is None:
            logger.error("%s, %s zeroed: %s (%s)", run.name, NAMED_STAGES, reason, log_path)
            write_facts({"reason": reason}, folder, FAILED_FILE)

    def _call(self, command: Sequence[str] | str, log_path: str, **options: object) -> int:
        process = start(command, log_path, jobs=self.jobs, **options)
        self.processes.add(process)
        if self.stopping.is_set():
            signal_session(process.pid, signal.SIGTERM)
        status = process.wait()
        self.processes.discard(process)
        if self.stopping.is_set():  # the children of a shell may outlive it
            end_session(process.pid)
        return status


def _is_resumed(run: Run) -> bool:
    """Whether the run goes on from a checkpoint; :func:`clear` has removed unwanted ones."""
    return os.path.isfile(os.path.join(run.folder, "last_checkpoint"))


def _why_unfinished(run: Run, status: int, log_path: str) -> str:
    """Why a training has failed; "" if it has finished."""
    # A training that a scheduler's SIGTERM stopped ends with 0 too, and may have metrics.
    if (stop := facts_of(run.folder, INTERRUPTED_FILE)) is not None:
        done = f"{stop['iteration']} of {stop['max_iter']}"
        return f"stopped by {stop['signal']} after iteration {done}"
    if status:
        return last_line(log_path)
    metrics = os.path.join(run.folder, "inference", METRICS_FILE)
    return "" if os.path.isfile(metrics) else f"no {metrics}"


def _record(run: Run) -> dict[str, object]:
    with_gpu = run.settings.get("MODEL.DEVICE") != "cpu"
    # Where the folders are on this machine is no fact of the run.
    output = run.folder.removesuffix(os.path.join("runs", run.key)).rstrip(os.sep)
    command = " ".join(run.arguments).replace(output, "{output}").replace(f"{PROJECT}{os.sep}", "")
    return make_record(command, [], seeds=[run.seed], with_gpu=with_gpu)
