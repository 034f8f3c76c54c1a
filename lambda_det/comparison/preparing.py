"""Runs the suite's ``prepare`` commands once before the first run, and again if data are missing.

``prepared.json`` lists the commands that have succeeded, and which of the data that the runs read
existed after them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from lambda_det.comparison.processes import (
    PROJECT,
    end_session,
    environment_of,
    last_line,
    tied,
)
from lambda_det.comparison.run_files import open_to_write
from lambda_det.comparison.suite import Suite
from lambda_det.errors import InputError, writing
from lambda_det.io import read_text, write_json

logger = logging.getLogger(__name__)

PREPARED_FILE = "prepared.json"
_GRACE = 5  # seconds that a command has to end after a signal
_MOST_NAMES = 50  # the files of a folder with more (of images, say) are not checked one by one


def prepare(suite: Suite, output: str) -> None:
    """Run the suite's ``prepare`` commands that have not been run, or whose data are missing.

    If the value of a config key is a path below ``output`` (``DATASETS.COCO_FOLDER``, say),
    ``prepared.json`` records what existed at that path after the commands. If that is missing,
    the commands that name the path run again, or all commands if none names it. Only one process
    prepares at a time. A running command is stopped when this process ends.

    Args:
        suite: as returned by :func:`~lambda_det.comparison.suite.read_suite`.
        output: folder of the comparison.

    Raises:
        InputError: a command fails, or ``output`` cannot be written.
    """
    if not suite.prepare:
        return
    output = os.path.abspath(output)
    with writing(output):
        os.makedirs(output, exist_ok=True)
    path = os.path.join(output, "lock")
    with open_to_write(path) as lock:
        with writing(path):
            fcntl.flock(lock, fcntl.LOCK_EX)  # wait for another comparison that prepares
        marker = os.path.join(output, PREPARED_FILE)
        done, known = _prepared(marker)
        data = _data(suite, output)
        again = _to_repeat(done, data, known, output)
        done = [command for command in done if command not in again]
        if again:  # a killed command may leave a part of the data
            with writing(marker):
                write_json({"commands": done, "data": known}, marker)
        for command in suite.prepare:
            if command in done:
                continue
            logger.info("$ %s", command)
            _run(command, os.path.join(output, "prepare.log"))
            done.append(command)
            known |= {name: _names(os.path.join(output, name)) for name in data}
            with writing(marker):
                write_json({"commands": done, "data": known}, marker)


def _prepared(marker: str) -> tuple[list[str], dict[str, list[str] | None]]:
    """Read ``prepared.json``: the commands that are done, and path below the comparison's folder ->
    names of the files in it (None if nothing existed at that path)."""
    if not os.path.lexists(marker):
        return [], {}
    try:
        content = json.loads(read_text(marker))
        if isinstance(content, list):  # an earlier version recorded no data
            content = {"commands": content, "data": {}}
        done, known = content["commands"], content["data"]
        lists = [done, *filter(None, known.values())]
        if not all(isinstance(v, list) and all(isinstance(s, str) for s in v) for v in lists):
            raise TypeError("not lists of strings")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is broken (%s): all commands of prepare run again", marker, error)
        return [], {}
    return done, known


def _data(suite: Suite, output: str) -> list[str]:
    """Paths below the comparison's folder that a config names."""
    start = "{output}" + os.sep  # as it is written in the settings of runs
    values = {v for run in suite.runs for v in run.settings.values() if isinstance(v, str)}
    return sorted({os.path.normpath(v[len(start) :]) for v in values if v.startswith(start)})


def _to_repeat(
    done: Sequence[str], data: Sequence[str], known: Mapping[str, list[str] | None], output: str
) -> set[str]:
    """The commands among ``done`` whose data are missing."""
    again: set[str] = set()
    for name in data:
        path = os.path.join(output, name)
        naming = {command for command in done if path in command}
        if name in known:
            missing = known[name] is not None and not _exists(path, known[name])
        else:
            missing = bool(naming) and not _exists(path, [])
        if missing and done:
            logger.warning("%s, or a part of it, is missing: it is prepared again", path)
            again |= naming or set(done)
    return again


def _names(path: str) -> list[str] | None:
    """Names of the files in a folder; [] for a file and for a folder of more than ``_MOST_NAMES``;
    None if the path does not exist or is an empty folder."""
    if not _exists(path, []):
        return None
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    if len(names) > _MOST_NAMES:
        return []
    return [name for name in names if _exists(os.path.join(path, name), [])]


def _exists(path: str, names: Sequence[str]) -> bool:
    """Whether a path is a file or a folder that is not empty, and so are ``names`` in it."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            if next(entries, None) is None:
                return False
    elif not os.path.exists(path):
        return False
    return all(_exists(os.path.join(path, name), []) for name in names)


def shell_command(command: str) -> list[str]:
    """Arguments that run a command of a suite in a shell, whose syntax its author may use."""
    return ["/bin/sh", "-c", command]


def _run(command: str, log_path: str) -> None:
    with open_to_write(log_path, "a") as log:
        process = subprocess.Popen(
            tied(shell_command(command)), cwd=PROJECT, env=environment_of(1, None),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,  # a session of its own can be ended as a whole
        )  # fmt: skip
    try:
        process.wait()
    except BaseException:  # a signal handler of this process raises
        # SIGINT comes first, as from Ctrl-C, so that a command may remove what is half written.
        end_session(process.pid, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL), _GRACE)
        process.wait()
        raise
    if process.returncode:
        raise InputError(
            f"prepare: {command!r} ended with status {process.returncode}: {last_line(log_path)} "
            f"({log_path})"
        )
