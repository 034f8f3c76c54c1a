"""Runs as processes: finished ones are skipped, begun ones started again, failed ones survived."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lambda_det.comparison.controls import NAMED_STAGES
from lambda_det.comparison.preparing import prepare
from lambda_det.comparison.results import zeroed_missing
from lambda_det.comparison.run import Command, train_command, zeroed_command
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.suite import Run, Suite
from lambda_det.comparison.workers import Workers
from lambda_det.errors import InputError

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
    workers = Workers(command, evaluate, jobs, list(devices or []))
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
