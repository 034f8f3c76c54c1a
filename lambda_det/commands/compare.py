"""Run a suite of models and seeds, and compare them in one table.

Runs that have finished in --output are not run again. A run that was begun starts again, or goes on
from its checkpoint if the suite says "resume: True".
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Mapping

from lambda_det.commands import add_import, command_parser
from lambda_det.comparison import collect, execute, read_suite, results_markdown
from lambda_det.comparison.collect import published_rows
from lambda_det.comparison.notes import unfinished_runs
from lambda_det.comparison.planning import measure, plan_text
from lambda_det.comparison.report import write_results
from lambda_det.comparison.results import keep, zeroed_missing
from lambda_det.comparison.run_files import FINISHED, state_of, write_facts
from lambda_det.comparison.suite import Run, Suite, chosen_runs
from lambda_det.engine.setup import import_modules, import_words
from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.io import check_writable, read_json
from lambda_det.records import record_path, results_folder, tool_command


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__name__, __doc__)
    parser.add_argument(
        "--suite", required=True, metavar="YAML", help="path of a suite, or name of a shipped suite"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the comparison")
    parser.add_argument(
        "--jobs", type=int, metavar="N",
        help="number of runs at a time (as many as the GPUs allow, else one per four cores)",
    )  # fmt: skip
    parser.add_argument(
        "--gpus-per-run", type=int, metavar="N", help="number of GPUs of each run (as in the suite)"
    )
    parser.add_argument(
        "--no-run", action="store_true", help="train nothing, only collect finished runs"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="RUN",
        help="run only these: [SET/]MODEL[/seedN[_without]], as below DIR/runs; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--plan", action="store_true",
        help="run nothing: print each run's command, and its hours estimated from measured times",
    )  # fmt: skip
    parser.add_argument(
        "--measure", type=int, metavar="N",
        help="train each model for N iterations on one device to measure its time, then --plan",
    )  # fmt: skip
    parser.add_argument(
        "--record", metavar="NAME", help="also write results/NAME.json if all runs have finished"
    )
    parser.add_argument(
        "opts",
        nargs="*",
        metavar="KEY VALUE",
        help="config keys of every run, which override the suite's",
    )
    return add_import(parser).parse_args(argv)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("lambda_det").setLevel(logging.INFO)
    import_modules(args.modules)
    suite = read_suite(
        args.suite,
        args.output,
        args.opts,
        gpus_per_run=args.gpus_per_run,
        modules=args.modules,
    )
    published_rows(suite)  # a wrong name raises before days of training
    chosen = chosen_runs(suite, args.only)
    check_writable(os.path.join(args.output, "results.json"))
    if args.record is not None:
        if args.plan or args.measure is not None:
            raise InputError(
                f"--record {args.record}: --plan and --measure give no results to record"
            )
        record_file = record_path(str(results_folder()), args.record)
        check_record(record_file, suite)
    if args.measure is not None:
        measure(suite, args.output, chosen, args.measure)
    if args.plan or args.measure is not None:
        print(plan_text(suite, args.output, chosen, lambda run: command_of(args, run)))
        return 0
    if args.no_run:
        states = {run: state_of(run) for run in suite.runs}
    else:
        states = execute(suite, args.output, jobs=args.jobs, only=chosen)
    for run, state in states.items():
        if state == FINISHED:
            keep(run)
    record = collect(suite, states, command=command_of(args))
    try:
        write_results(args.output, suite, states, record)
    finally:  # the numbers are printed even if the disk is full
        print(results_markdown(record))
    if args.record is not None:
        write_record(record_file, record)
    whole = (states[run] == FINISHED and zeroed_missing(run) is None for run in chosen)
    return 0 if all(whole) else 1


def check_record(path: str, suite: Suite) -> None:
    """Check that the record of a suite can be written, before days of training.

    Raises:
        InputError: the file is the record of another suite, or it cannot be written.
    """
    check_writable(path, "--record")
    if not os.path.exists(path):
        return
    try:
        other = read_json(path).get("suite")
    except (InputError, AttributeError):  # no JSON, or no object
        other = None
    if other != suite.name:
        raise InputError(
            f"--record: {path} is not a record of suite {suite.name!r}; choose another name or "
            "remove that file"
        )


def write_record(path: str, record: Mapping) -> None:
    """Write the record of a comparison.

    Raises:
        InputError: a run or an evaluation is missing, or the record cannot be written.
    """
    if missing := unfinished_runs(record):
        raise InputError(
            f"--record: {path} is not written because {len(missing)} of {len(record['runs'])} runs "
            f"are not complete: {'; '.join(missing)}; the same command makes what is missing"
        )
    write_facts(record, path)


def end(number: int, _frame: object) -> None:
    """Handle a signal: exit, which ends the trainings, and ignore further signals meanwhile."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    print("stopped; run the same command again to go on from here", file=sys.stderr)
    sys.exit(128 + number)


def command_of(args: argparse.Namespace, run: Run | None = None) -> str:
    """The command that was run, or the command for one run alone. ``--no-run`` and ``--record`` are
    left out, because the numbers do not depend on them."""
    arguments = ["--suite", args.suite, "--output", args.output, *import_words(args.modules)]
    for key in args.only if run is None else [run.key]:
        arguments += ["--only", key]
    arguments += ["--jobs", str(args.jobs)] if args.jobs else []
    arguments += ["--gpus-per-run", str(args.gpus_per_run)] if args.gpus_per_run else []
    return tool_command("compare", [*arguments, *args.opts])
