"""Writes the results of a comparison: record, tables, plot and report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from lambda_det.comparison import plots
from lambda_det.comparison.processes import locked
from lambda_det.comparison.report import html_report
from lambda_det.comparison.results import zeroed_missing
from lambda_det.comparison.run_files import FINISHED, write_facts
from lambda_det.comparison.suite import Run, Suite
from lambda_det.comparison.tables import results_markdown
from lambda_det.errors import InputError, writing
from lambda_det.io import check_writable, read_json, write_bytes


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


def write_record(path: str, states: Mapping[Run, str], record: Mapping) -> None:
    """Write the record of a comparison whose runs have all finished.

    Raises:
        InputError: a run or an evaluation is missing, or the record cannot be written.
    """
    missing = [f"{run.name} ({state})" for run, state in states.items() if state != FINISHED]
    if missing:
        raise InputError(
            f"--record: {path} is not written because {len(missing)} of {len(states)} runs are not "
            f"finished: {', '.join(missing)}"
        )
    lacking = [f"{run.name} ({reason})" for run in states if (reason := zeroed_missing(run))]
    if lacking:
        raise InputError(
            f"--record: {path} is not written because the evaluation with zeroed branches is "
            f"missing for {', '.join(lacking)}; the same command evaluates it"
        )
    write_facts(record, path)


def write_results(output: str, suite: Suite, states: Mapping[Run, str], record: Mapping) -> str:
    """Write ``results.json``, ``results.md``, ``report.html`` and, as soon as a run has finished,
    ``speed_accuracy.png``.

    Returns:
        The text of ``results.md``.

    Raises:
        InputError: a file of a finished run is damaged, or one of the results cannot be written;
            the previous version of that file is then kept.
    """
    text = results_markdown(record)
    contents = {"results.md": text.encode()}
    draw = plots.trade_off_figure(record, ["inference_ms_per_image"])
    if draw is not None:
        contents["speed_accuracy.png"] = plots.png(draw)
    contents["report.html"] = html_report(suite, states, record).encode()
    with locked(output):  # waits for another comparison in this folder
        write_facts(record, output, "results.json")
        for name, content in contents.items():
            path = os.path.join(output, name)
            with writing(path):
                write_bytes(content, path)
        if draw is None:  # the plot of an earlier call is of other numbers
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(output, "speed_accuracy.png"))
    return text
