"""Runs a suite in processes. Finished runs are skipped, begun runs start again, and a failed run
does not stop the others."""

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
    """Run the runs that have not finished.

    A run whose process ends with an error becomes ``failed``, and the others go on; the next call
    tries it again. The same holds for the evaluation with zeroed branches, except that a run counts
    as finished without it. If several processes call this at the same time, only one of them works
    on a run. The processes of the runs end with this one.

    Args:
        suite: as returned by :func:`~lambda_det.comparison.suite.read_suite`.
        output: folder of the comparison.
        command: returns the arguments of the process that trains a run.
        evaluate: returns the arguments of the process that evaluates a finished run with zeroed
            branches, if the suite asks for that.
        jobs: number of runs at a time.
        devices: values of CUDA_VISIBLE_DEVICES, one for each job; None leaves it as it is.
        only: the runs to run; None means all.

    Returns:
        The state of every run of the suite, as :func:`~lambda_det.comparison.run_files.state_of`
        returns it.

    Raises:
        InputError: ``jobs`` is below 1, a command of ``prepare`` fails, or a folder contains a run
            with other settings or cannot be written. In the last two cases no further run begins,
            and the error is raised after the trainings in progress have ended.
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
            "%d of them train without the residual branches of %s, as a control (set "
            "'controls: [zeroed]' in the suite to leave these trainings out)",
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
    # The states are read again, because other processes may have worked in a shared folder.
    return {run: state_of(run) for run in suite.runs}
