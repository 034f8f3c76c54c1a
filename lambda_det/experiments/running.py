"""Runs as processes: finished ones are skipped, begun ones started again, failed ones survived."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.errors import InputError, writing
from lambda_det.evaluation.metrics import METRICS_FILE
from lambda_det.evaluation.records import zeroed_folder
from lambda_det.experiments.controls import NAMED_STAGES
from lambda_det.experiments.kept import keep, named_right
from lambda_det.experiments.preparing import prepare
from lambda_det.experiments.processes import PROJECT, environment_of, last_line, stop, tied
from lambda_det.experiments.run import half_written
from lambda_det.experiments.run_commands import (
    Command,
    final_weights,
    pretrain_command,
    train_command,
    zeroed_command,
)
from lambda_det.experiments.run_facts import NAMED_RIGHT, zeroed_metrics, zeroed_missing
from lambda_det.experiments.run_files import (
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
from lambda_det.experiments.suite import Run, Suite
from lambda_det.records import make_record, write_json

logger = logging.getLogger(__name__)


def execute(
    suite: Suite,
    output: str,
    *,
    command: Command = train_command,
    evaluate: Command = zeroed_command,
    jobs: int = 1,
    devices: Sequence[str] | None = None,
    only: Sequence[Run] | None = None,
) -> dict[Run, str]:
    """Run what is not finished yet, and return the state of every run.

    A run whose process ends with an error is kept as failed, and the others go on; the next call
    takes it up again. So it does with the evaluation with zeroed branches, without which a run is
    finished all the same. Only one process works on a run, whatever calls this at the same time.
    The processes end with this one.

    Args:
        suite: of :func:`read_suite`.
        output: folder of the comparison.
        command: what runs a run.
        evaluate: what evaluates a finished run with zeroed branches, where the suite asks for that.
        jobs: runs at a time.
        devices: values of CUDA_VISIBLE_DEVICES, one for each job; None leaves it as it is.
        only: run no others; None is all.

    Raises:
        InputError: ``jobs`` is below 1, a folder holds a run with other settings or cannot be
            written (then no other run is begun, but those that train end first), or a command of
            ``prepare`` fails.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
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
            "%d of them train without the residual branches of %s, as a control (the suite's "
            "'controls: [zeroed]' leaves these trainings out)",
            without, NAMED_STAGES,
        )  # fmt: skip
    if not waiting:
        return states
    prepare(suite, output)
    workers = _Workers(command, evaluate, jobs, list(devices or []))
    pool = ThreadPoolExecutor(max_workers=jobs)
    try:
        attempts = pool.map(lambda run: (run, workers.work(run, states[run])), waiting)
        for done, (run, state) in enumerate(attempts, start=1):
            logger.info("%d of %d: %s %s", done, len(waiting), run.name, state)
        if workers.errors:
            raise workers.errors[0]
    finally:  # also on Ctrl-C
        workers.stop()
        pool.shutdown(cancel_futures=True)
    # Anew, also of what was not ours to run: on a shared folder others have worked meanwhile.
    return {run: state_of(run) for run in suite.runs}


@dataclass
class _Workers:
    """What the threads share."""

    command: Command
    evaluate: Command
    jobs: int
    devices: list[str]
    stopping: threading.Event = field(default_factory=threading.Event)
    processes: set[subprocess.Popen] = field(default_factory=set)
    errors: list[InputError] = field(default_factory=list)

    def work(self, run: Run, state: str) -> str:
        """The state of a run after an attempt."""
        if self.stopping.is_set() or self.errors:
            return state
        device = self.devices.pop() if self.devices else None
        try:
            return self._attempt(run, device)
        except InputError as error:  # a full disk, say: raised when what trains has ended
            self.errors.append(error)
            return STARTED
        finally:
            if device is not None:
                self.devices.append(device)

    def stop(self) -> None:
        self.stopping.set()
        for process in list(self.processes):
            stop(process)

    def _attempt(self, run: Run, device: str | None) -> str:
        with writing(run.folder):
            os.makedirs(run.folder, exist_ok=True)
        with open_to_write(os.path.join(run.folder, "lock")) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("%s: another process is at work there", run.folder)
                return STARTED
            except OSError as error:
                raise InputError(f"{lock.name} cannot be locked: {error.strerror}") from error
            # Perhaps finished by another comparison, since we looked.
            state = state_of(run)
            if state != FINISHED:
                state = self._train(run, device, lock.fileno())
            if state == FINISHED and zeroed_missing(run) is not None:
                self._evaluate_zeroed(run, device, lock.fileno())
            if state == FINISHED and run.kept and zeroed_missing(run) is None:
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
        """Make the weights that a run starts from, unless they are there; None, or what failed."""
        if os.path.isfile(run.weights):
            return None
        with writing(run.weights):
            os.makedirs(os.path.dirname(run.weights), exist_ok=True)
        log_path, part = f"{run.weights}.log", half_written(run.weights)
        logger.info("%s, pretraining ... (%s)", run.name, log_path)
        status, _ = self._process(pretrain_command(run), device, lock, log_path, PROJECT)
        if not status and os.path.isfile(part):
            with writing(run.weights):
                os.replace(part, run.weights)
            return None
        reason = last_line(log_path) if status else f"no {part}"
        if not self.stopping.is_set():
            logger.error("%s, pretraining: %s (%s)", run.name, reason, log_path)
        return {"exit_status": status, "reason": f"pretraining: {reason}"}

    def _evaluate_zeroed(self, run: Run, device: str | None, lock: int) -> None:
        """A failure is noted, and the run stays finished."""
        folder = zeroed_folder(run.folder, CONTROLLED_STAGES)
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
        log_path = os.path.join(folder, "output.log")
        what = f"{run.name}, {NAMED_STAGES} zeroed"
        logger.info("%s ... (%s)", what, log_path)
        weights, status = final_weights(run), None
        if os.path.isfile(weights):
            status, _ = self._process(self.evaluate(run), device, lock, log_path)
            reason = last_line(log_path) if status else f"no {METRICS_FILE} in {folder}"
        else:
            reason = f"{weights} is gone"
        if self.stopping.is_set() or zeroed_metrics(run) is not None:
            return
        logger.error("%s: %s (%s)", what, reason, log_path)
        _write({"exit_status": status, "reason": reason}, run, os.path.join(folder, FAILED_FILE))

    def _watch(self, run: Run, device: str | None, lock: int, attempts: int) -> str:
        log_path = os.path.join(run.folder, "output.log")
        start = time.monotonic()
        resumed = os.path.isfile(os.path.join(run.folder, "last_checkpoint"))
        record = _record(run)  # of the code that is started, whatever becomes of the checkout
        status, memory_kib = self._process(self.command(run), device, lock, log_path)
        if self.stopping.is_set():
            return STARTED
        facts = {
            "exit_status": status,
            "attempts": attempts,
            "resumed": resumed,
            "last_attempt_s": round(time.monotonic() - start, 1),
            "peak_host_memory_mib": round(memory_kib / 1024, 1),
            "jobs": self.jobs,
            "gpus": run.gpus,
        }
        metrics = os.path.join(run.folder, "inference", METRICS_FILE)
        # A training that a scheduler's SIGTERM stopped ends with 0 too, and may have evaluated.
        interrupted = interrupted_facts(run)
        if status == 0 and os.path.isfile(metrics) and interrupted is None:
            facts |= {"record": record, NAMED_RIGHT: named_right(run)}
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
    ) -> tuple[int, int]:
        """Exit status and peak memory, in KiB, of a command whose output goes to ``log_path``."""
        with open_to_write(log_path, "a") as log:
            process = subprocess.Popen(
                tied(command),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment_of(self.jobs, device),
                pass_fds=(lock,),  # held as long as the process lives, whatever befalls us
                start_new_session=True,  # a group of its own, to be stopped as a whole
            )
            self.processes.add(process)
            if self.stopping.is_set():
                stop(process)
            # wait4 and not wait(): it knows the memory of this one process.
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.processes.discard(process)
        return process.returncode, usage.ru_maxrss


def _write(facts: dict, run: Run, name: str) -> None:
    path = os.path.join(run.folder, name)
    with writing(path):
        write_json(facts, path)


def _record(run: Run) -> dict[str, object]:
    with_gpu = run.settings.get("MODEL.DEVICE") != "cpu"
    return make_record(" ".join(run.words), [], seeds=[run.seed], with_gpu=with_gpu)
