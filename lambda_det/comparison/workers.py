"""Works on the runs of a comparison: each of its threads runs one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import NAMED_STAGES
from lambda_det.comparison.preparing import shell_command
from lambda_det.comparison.processes import (
    PROJECT,
    end_session,
    environment_of,
    last_line,
    signal_session,
    tied,
)
from lambda_det.comparison.results import found_by, keep, zeroed_metrics, zeroed_missing
from lambda_det.comparison.run import Command, Run, final_weights, half_written
from lambda_det.comparison.run_files import (
    FAILED,
    FAILED_FILE,
    FINISHED,
    FINISHED_FILE,
    RUN_FILE,
    STARTED,
    changed_settings,
    clear,
    description,
    interrupted_facts,
    open_to_write,
    state_of,
)
from lambda_det.engine.summary import read_summary
from lambda_det.errors import InputError, writing
from lambda_det.evaluation.metrics import METRICS_FILE
from lambda_det.evaluation.run_folder import zeroed_folder
from lambda_det.io import write_json
from lambda_det.records import make_record

logger = logging.getLogger(__name__)


@dataclass
class Workers:
    """The state that the threads of a comparison share.

    Attributes:
        command: returns the arguments of the process that trains a run.
        evaluate: returns the arguments of the process that evaluates it with zeroed branches.
        jobs: number of runs at a time.
        devices: values of CUDA_VISIBLE_DEVICES that are free.
        stopping: set when the comparison is to end.
        processes: processes that are running.
        errors: errors that keep further runs from beginning.
    """

    command: Command
    evaluate: Command
    jobs: int
    devices: list[str]
    stopping: threading.Event = field(default_factory=threading.Event)
    processes: set[subprocess.Popen] = field(default_factory=set)
    errors: list[InputError] = field(default_factory=list)

    def work(self, run: Run, state: str) -> str:
        """Attempt a run, and return its state afterwards."""
        if self.stopping.is_set() or self.errors:
            return state
        device = self.devices.pop() if self.devices else None
        try:
            return self._attempt(run, device)
        except InputError as error:  # a full disk, say
            self.errors.append(error)  # execute raises it after the other runs have ended
            return STARTED
        finally:
            if device is not None:
                self.devices.append(device)

    def stop(self) -> None:
        """End the running processes with SIGTERM, and let no other begin."""
        self.stopping.set()
        for process in list(self.processes):
            signal_session(process.pid, signal.SIGTERM)

    def _attempt(self, run: Run, device: str | None) -> str:
        with writing(run.folder):
            os.makedirs(run.folder, exist_ok=True)
        with open_to_write(os.path.join(run.folder, "lock")) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("%s: another process is working on this run", run.folder)
                return STARTED
            except OSError as error:
                raise InputError(f"{lock.name} cannot be locked: {error.strerror}") from error
            # Another process may have finished the run since its state was read.
            state = state_of(run)
            if state != FINISHED:
                state = self._train(run, device, lock.fileno())
            if state == FINISHED and zeroed_missing(run) is not None:
                self._evaluate_zeroed(run, device, lock.fileno())
            if state == FINISHED:
                keep(run)
            return state

    def _train(self, run: Run, device: str | None, lock: int) -> str:
        attempts = (description(run) or {}).get("attempts", 0) + 1
        with writing(run.folder):
            clear(run)
        known = {
            "settings": run.settings, "changed": changed_settings(run), "seed": run.seed,
            "attempts": attempts,
        }  # fmt: skip
        _write(known, run, RUN_FILE)
        logger.info("%s ... (%s)", run.name, os.path.join(run.folder, "output.log"))
        facts = self._pretrain(run, device, lock) if run.pretrain else None
        if self.stopping.is_set():
            return STARTED
        if facts is not None:
            _write(facts | {"attempts": attempts}, run, FAILED_FILE)
            return FAILED
        return self._watch(run, device, lock, attempts)

    def _pretrain(self, run: Run, device: str | None, lock: int) -> dict | None:
        """Make the weights that a run starts from, unless they exist.

        Returns:
            None on success; otherwise what ``failed.json`` says of the failure.
        """
        if os.path.isfile(run.weights) or is_resumed(run):
            return None
        log_path, part = f"{run.weights}.log", half_written(run.weights)
        with writing(part), contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        with open_to_write(log_path):  # empty it: an earlier attempt's last line is no reason
            pass
        logger.info("%s, pretraining ... (%s)", run.name, log_path)
        status = self._process(shell_command(run.pretrain), device, lock, log_path, PROJECT)
        if self.stopping.is_set():
            return None
        if not status and os.path.isfile(part):
            with writing(run.weights):
                os.replace(part, run.weights)
            return None
        reason = last_line(log_path) if status else f"no {part}"
        logger.error("%s, pretraining: %s (%s)", run.name, reason, log_path)
        return {"exit_status": status, "reason": f"pretraining: {reason}"}

    def _evaluate_zeroed(self, run: Run, device: str | None, lock: int) -> None:
        """Evaluate a finished run with zeroed branches. A failure is recorded, and the run stays
        finished."""
        folder = zeroed_folder(run.folder, CONTROLLED_STAGES)
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        log_path = os.path.join(folder, "output.log")
        what = f"{run.name}, {NAMED_STAGES} zeroed"
        logger.info("%s ... (%s)", what, log_path)
        weights, status = final_weights(run), None
        if os.path.isfile(weights):
            status = self._process(self.evaluate(run), device, lock, log_path)
            reason = last_line(log_path) if status else f"no {METRICS_FILE} in {folder}"
        else:
            reason = f"{weights} is missing"
        if self.stopping.is_set() or zeroed_metrics(run) is not None:
            return
        logger.error("%s: %s (%s)", what, reason, log_path)
        _write({"exit_status": status, "reason": reason}, run, os.path.join(folder, FAILED_FILE))

    def _watch(self, run: Run, device: str | None, lock: int, attempts: int) -> str:
        log_path = os.path.join(run.folder, "output.log")
        start = time.monotonic()
        resumed = is_resumed(run)
        record = _record(run)  # before the checkout may change
        status = self._process(self.command(run), device, lock, log_path)
        if self.stopping.is_set():
            return STARTED
        facts = {
            "exit_status": status,
            "attempts": attempts,
            "resumed": resumed,
            "last_attempt_s": round(time.monotonic() - start, 1),
            "peak_host_memory_mib": read_summary(run.folder).get("peak_host_memory_mib"),
            "jobs": self.jobs,
            "gpus": run.gpus,
        }
        metrics = os.path.join(run.folder, "inference", METRICS_FILE)
        # A training that a scheduler's SIGTERM stopped ends with 0 too, and may have metrics.
        interrupted = interrupted_facts(run)
        if status == 0 and os.path.isfile(metrics) and interrupted is None:
            facts |= {"record": record, **found_by(run)}
            _write(facts, run, FINISHED_FILE)
            return FINISHED
        if interrupted is not None:
            done = f"{interrupted['iteration']} of {interrupted['max_iter']}"
            facts["reason"] = f"stopped by {interrupted['signal']} after iteration {done}"
        else:
            facts["reason"] = last_line(log_path) if status else f"no {metrics}"
        logger.error(
            "%s ended with status %d: %s (%s)",
            run.name, status, facts["reason"], log_path,
        )  # fmt: skip
        _write(facts, run, FAILED_FILE)
        return FAILED

    def _process(
        self,
        command: Sequence[str],
        device: str | None,
        lock: int,
        log_path: str,
        folder: str | None = None,
    ) -> int:
        """Run a command whose output goes to ``log_path``, and return its exit status."""
        with open_to_write(log_path, "a") as log:
            process = subprocess.Popen(
                tied(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment_of(self.jobs, device),
                pass_fds=(lock,),  # the lock is held until the process ends
                start_new_session=True,  # a session of its own can be ended as a whole
            )
            self.processes.add(process)
            if self.stopping.is_set():
                signal_session(process.pid, signal.SIGTERM)
            status = process.wait()
            self.processes.discard(process)
            if self.stopping.is_set():  # the children of a shell may outlive it
                end_session(process.pid)
        return status


def is_resumed(run: Run) -> bool:
    """Whether the run goes on from a checkpoint; :func:`clear` has removed unwanted ones."""
    return os.path.isfile(os.path.join(run.folder, "last_checkpoint"))


def _write(facts: dict, run: Run, name: str) -> None:
    path = os.path.join(run.folder, name)
    with writing(path):
        write_json(facts, path)


def _record(run: Run) -> dict[str, object]:
    with_gpu = run.settings.get("MODEL.DEVICE") != "cpu"
    return make_record(" ".join(run.arguments), [], seeds=[run.seed], with_gpu=with_gpu)
