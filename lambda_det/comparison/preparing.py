"""Runs the suite's ``prepare`` commands once before the first run, and again if data are missing.

``prepared.json`` lists the commands that have succeeded, and which of the data that the runs read
existed after them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from lambda_det.comparison.processes import last_line, locked, run_to_end
from lambda_det.comparison.run_files import read_object, write_facts
from lambda_det.comparison.suite import Suite
from lambda_det.errors import InputError

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
    log_path, marker = (os.path.join(output, name) for name in ("prepare.log", PREPARED_FILE))
    with locked(output):  # waits for another comparison that prepares
        broken = "all commands of prepare run again"
        facts = read_object(marker, "commands", "data", otherwise=broken) or {}
        done: list[str] = facts.get("commands", [])
        known: Data = facts.get("data", {})
        again = _to_repeat(done, {name: known.get(name) for name in _data(suite)}, output)
        done = [command for command in done if command not in again]
        if again:  # a killed command may leave a part of the data
            write_facts({"commands": done, "data": known}, marker)
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
            write_facts({"commands": done, "data": known}, marker)


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
