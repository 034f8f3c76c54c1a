"""Runs the suite's ``prepare`` commands once before the first run, and again if data are missing.

``prepared.json`` lists the commands that have succeeded, and which of the data that the runs read
existed after them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence

from lambda_det.comparison.processes import last_line, locked, run_to_end
from lambda_det.comparison.run_files import write_facts
from lambda_det.comparison.suite import Suite
from lambda_det.errors import InputError
from lambda_det.io import read_text

logger = logging.getLogger(__name__)

PREPARED_FILE = "prepared.json"
_MOST_NAMES = 50  # the files of a folder with more (of images, say) are not checked one by one

Data = dict[str, list[str] | None]
"""Path below the comparison's folder -> names of the files in it; None if nothing existed there."""


def prepare(suite: Suite, output: str) -> None:
    """Run the suite's ``prepare`` commands that have not been run, or whose data are missing.

    If the value of a config key is a path below ``output`` (``DATASETS.COCO_FOLDER``, say),
    ``prepared.json`` records what existed at that path after the commands. If that is missing,
    the commands that name the path run again, or all commands if none names it. Only one process
    prepares at a time. A running command is stopped when this process ends.

    Raises:
        InputError: a command fails, or the comparison's folder ``output`` cannot be written.
    """
    if not suite.prepare:
        return
    output = os.path.abspath(output)
    log_path = os.path.join(output, "prepare.log")
    with locked(output):  # waits for another comparison that prepares
        done, known = _prepared(output)
        again = _to_repeat(done, {name: known.get(name) for name in _data(suite)}, output)
        done = [command for command in done if command not in again]
        if again:  # a killed command may leave a part of the data
            write_facts({"commands": done, "data": known}, output, PREPARED_FILE)
        for command in suite.prepare:
            if command in done:
                continue
            logger.info("$ %s", command)
            if status := run_to_end(command, log_path):
                raise InputError(
                    f"prepare: {command!r} ended with status {status}: {last_line(log_path)} "
                    f"({log_path})"
                )
            done.append(command)
            known |= {name: _names(os.path.join(output, name)) for name in _data(suite)}
            write_facts({"commands": done, "data": known}, output, PREPARED_FILE)


def _prepared(output: str) -> tuple[list[str], Data]:
    """Read ``prepared.json``: the commands that are done, and their data."""
    path = os.path.join(output, PREPARED_FILE)
    if not os.path.lexists(path):
        return [], {}
    text = read_text(path)
    try:
        content = json.loads(text)
        if isinstance(content, list):  # an earlier version recorded no data
            return content, {}
        return content["commands"], content["data"]
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is broken (%s): all commands of prepare run again", path, error)
        return [], {}


def _data(suite: Suite) -> list[str]:
    """Paths below the comparison's folder that a config names."""
    start = "{output}" + os.sep  # as it is written in the settings of runs
    values = {v for run in suite.runs for v in run.settings.values() if isinstance(v, str)}
    return sorted({os.path.normpath(v[len(start) :]) for v in values if v.startswith(start)})


def _to_repeat(done: Sequence[str], known: Data, output: str) -> set[str]:
    """The commands among ``done`` whose data are missing."""
    again: set[str] = set()
    for name, names in known.items():
        path = os.path.join(output, name)
        if names is None or all(map(_exists, [path, *(os.path.join(path, n) for n in names)])):
            continue
        logger.warning("%s, or a part of it, is missing: it is prepared again", path)
        again |= {command for command in done if path in command} or set(done)
    return again


def _names(path: str) -> list[str] | None:
    """Names of the files in a folder; [] for a file and for a folder of more than ``_MOST_NAMES``;
    None if the path does not exist or is an empty folder."""
    if not _exists(path):
        return None
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    if len(names) > _MOST_NAMES:
        return []
    return [name for name in names if _exists(os.path.join(path, name))]


def _exists(path: str) -> bool:
    """Whether a path is a file, or a folder that is not empty."""
    return bool(os.listdir(path)) if os.path.isdir(path) else os.path.exists(path)
