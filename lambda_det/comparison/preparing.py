"""What comes before the first run: the suite's commands, once, and again where their data are gone.

``prepared.json`` holds the commands that have ended well, and what then was there of the data that
the runs read.
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
_MOST_NAMES = 50  # a folder with more holds pictures, which are not looked for one by one


def prepare(suite: Suite, output: str) -> None:
    """Run the suite's ``prepare`` commands that have not been run, or whose data are gone.

    Of a config key whose value is a path below ``output`` (``DATASETS.COCO_FOLDER``, say) it is
    known what was there when the commands had ended. Where that is gone, the commands that name the
    path run again, or all of them where none does. Only one process prepares at a time. A command
    ends with this process.

    Args:
        suite: of :func:`~lambda_det.comparison.suite.read_suite`.
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
            fcntl.flock(lock, fcntl.LOCK_EX)  # another comparison prepares: wait for it
        marker = os.path.join(output, PREPARED_FILE)
        done, known = _prepared(marker)
        data = _data(suite, output)
        again = _to_repeat(done, data, known, output)
        done = [command for command in done if command not in again]
        if again:  # what a killed command leaves is not to be taken for the data
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
    """The commands that are done; path below the comparison's folder -> names that were in it, None
    where nothing was there."""
    if not os.path.lexists(marker):
        return [], {}
    try:
        content = json.loads(read_text(marker))
        if isinstance(content, list):  # of an earlier version: nothing is known of the data
            content = {"commands": content, "data": {}}
        done, known = content["commands"], content["data"]
        lists = [done, *filter(None, known.values())]
        if not all(isinstance(v, list) and all(isinstance(s, str) for s in v) for v in lists):
            raise TypeError("no lists of words")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is broken (%s): everything is prepared anew", marker, error)
        return [], {}
    return done, known


def _data(suite: Suite, output: str) -> list[str]:
    """Paths below the comparison's folder that a config names."""
    start = "{output}" + os.sep  # as the runs' settings have it
    values = {v for run in suite.runs for v in run.settings.values() if isinstance(v, str)}
    return sorted({os.path.normpath(v[len(start) :]) for v in values if v.startswith(start)})


def _to_repeat(
    done: Sequence[str], data: Sequence[str], known: Mapping[str, list[str] | None], output: str
) -> set[str]:
    """Those of the commands that are done whose data are gone."""
    again: set[str] = set()
    for name in data:
        path = os.path.join(output, name)
        naming = {command for command in done if path in command}
        if name in known:
            gone = known[name] is not None and not _is_there(path, known[name])
        else:
            gone = bool(naming) and not _is_there(path, [])
        if gone and done:
            logger.warning("%s is gone, or a part of it: it is prepared again", path)
            again |= naming or set(done)
    return again


def _names(path: str) -> list[str] | None:
    """What lies in a folder; nothing of a file, and of a folder full of pictures."""
    if not _is_there(path, []):
        return None
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    if len(names) > _MOST_NAMES:
        return []
    return [name for name in names if _is_there(os.path.join(path, name), [])]


def _is_there(path: str, names: Sequence[str]) -> bool:
    """Whether it is a file or a folder with something in it, and so are those in it."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            if next(entries, None) is None:
                return False
    elif not os.path.exists(path):
        return False
    return all(_is_there(os.path.join(path, name), []) for name in names)


def shell_words(command: str) -> list[str]:
    """A command of a suite's author, who may use what a shell has."""
    return ["/bin/sh", "-c", command]


def _run(command: str, log_path: str) -> None:
    with open_to_write(log_path, "a") as log:
        process = subprocess.Popen(
            tied(shell_words(command)), cwd=PROJECT, env=environment_of(1, None),
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,  # of its own, to be ended as a whole
        )  # fmt: skip
    try:
        process.wait()
    except BaseException:  # a signal to us, whose handler raises
        # As Ctrl-C does it first: a command may remove what is half written.
        end_session(process.pid, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL), _GRACE)
        process.wait()
        raise
    if process.returncode:
        raise InputError(
            f"prepare: {command!r} ended with status {process.returncode}: {last_line(log_path)} "
            f"({log_path})"
        )
