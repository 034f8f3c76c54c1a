"""The state of a run, from the files in its folder.

``run.json`` describes the run, ``finished.json`` is written last, after the metrics, and
``failed.json`` says how the last attempt ended.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from typing import Any

from lambda_det.comparison.controls import ZEROED
from lambda_det.comparison.data_digest import check_data
from lambda_det.comparison.run import PRETRAINED_FILE, Run
from lambda_det.comparison.settings import check_settings
from lambda_det.engine.interruption import INTERRUPTED_FILE
from lambda_det.errors import InputError, writing
from lambda_det.io import read_json, write_json

logger = logging.getLogger(__name__)

FINISHED, FAILED, STARTED, NEW = "finished", "failed", "started", "new"

RUN_FILE, FINISHED_FILE, FAILED_FILE = "run.json", "finished.json", "failed.json"

# Files that say how an attempt ended -> the keys that they have.
_VERDICTS = {
    FINISHED_FILE: ("last_attempt_s", "jobs", "gpus", "resumed", "record"),
    FAILED_FILE: ("reason",),  # in one line
    INTERRUPTED_FILE: ("signal", "iteration", "max_iter"),
}

SET_ASIDE = "set_aside_"
"""Start of the name of a folder with the files of an earlier attempt whose ``finished.json`` is
broken."""


def state_of(run: Run) -> str:
    """The state of a run: ``"finished"``, ``"failed"``, ``"started"`` or ``"new"``.

    If ``finished.json`` or ``failed.json`` is broken, a warning is logged and the run counts as
    started.

    Raises:
        InputError: the folder contains a run with other settings, or its ``run.json`` is broken.
    """
    if kept_facts(run) is not None:
        return FINISHED
    known = description(run)
    if known is None:
        return NEW
    way = "choose another --output or remove that folder"
    check_settings(run.settings, known, run.folder, way)
    if facts_of(run.folder, FINISHED_FILE) is not None:
        return FINISHED
    return STARTED if facts_of(run.folder, FAILED_FILE) is None else FAILED


def kept_facts(run: Run) -> dict | None:
    """Read the JSON of a finished run, as :func:`~lambda_det.comparison.results.keep` wrote it.

    Returns:
        None if the JSON does not exist, is broken, or lacks the evaluation with zeroed branches
        that the suite asks for.

    Raises:
        InputError: the JSON cannot be read, or it belongs to a run with other settings or data.
    """
    wanted = ("key", "settings", "finished", "row", "losses", "classes", "num_classes")
    facts = read_object(run.kept, *wanted) if run.kept else None
    if facts is None:
        return None
    if facts["key"] != run.key:
        raise InputError(
            f"{run.kept} belongs to the run {facts['key']!r}, not {run.key!r}; remove it"
        )
    check_settings(run.settings, facts, run.kept, "remove that file")
    check_data(run, facts)
    was_zeroed = any(column.endswith(f"_ap_{ZEROED}") for column in facts["row"])
    return None if run.zeroed and not was_zeroed else facts


def description(run: Run) -> dict | None:
    """Read ``run.json``; None if it does not exist.

    Raises:
        InputError: the file cannot be read, or is broken, so that it is not known which run the
            folder contains.
    """
    return _json_or_none(os.path.join(run.folder, RUN_FILE))


def facts_of(folder: str, name: str) -> dict | None:
    """Read a file that says how an attempt ended: ``finished.json``, ``failed.json``, or the one
    that a training writes when a signal ends it.

    Returns:
        None if the file does not exist or, with a warning, if it is broken.

    Raises:
        InputError: the file cannot be read.
    """
    return read_object(os.path.join(folder, name), *_VERDICTS[name])


def write_facts(facts: Mapping, *path: str) -> None:
    """Write a JSON file.

    Raises:
        InputError: the file cannot be written (in place of OSError).
    """
    name = os.path.join(*path)
    with writing(name):
        write_json(facts, name)


def clear(run: Run) -> None:
    """Remove the files of an earlier attempt, except the weights that it started from. If the run
    is to be resumed, only the files that say how the attempt ended are removed.

    If the run had finished, but its ``finished.json`` is broken, the files are moved into a folder
    ``set_aside_N`` instead.
    """
    found = os.listdir(run.folder)
    stays = ("lock", PRETRAINED_FILE)
    names = [name for name in found if name not in stays and not name.startswith(SET_ASIDE)]
    if run.resume:
        zeroed = os.path.basename(run.zeroed_folder)
        names = [name for name in names if name in (*_VERDICTS, zeroed)]
    if FINISHED_FILE in names:
        free = next(n for n in range(1, len(found) + 2) if f"{SET_ASIDE}{n}" not in found)
        aside = os.path.join(run.folder, f"{SET_ASIDE}{free}")
        logger.warning("%s: the files of an earlier attempt are kept in this folder", aside)
        os.mkdir(aside)
        # FINISHED_FILE goes last, so that a move that is killed goes on in the next attempt.
        for name in sorted(names, key=lambda name: name == FINISHED_FILE):
            os.rename(os.path.join(run.folder, name), os.path.join(aside, name))
        return
    for name in names:
        path = os.path.join(run.folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def read_object(
    path: str, *wanted: str, otherwise: str = "the run counts as unfinished"
) -> dict | None:
    """Read a JSON object that has the ``wanted`` keys.

    Returns:
        None if the file does not exist or, with a warning that says what happens ``otherwise``, if
        it is broken, as after a power cut.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        content = _json_or_none(path)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        logger.warning("%s: %s", error, otherwise)
        return None
    if content is None or (isinstance(content, dict) and content.keys() >= {*wanted}):
        return content
    names = ", ".join(wanted)
    logger.warning("%s is broken (no object with %s): %s", path, names, otherwise)
    return None


def _json_or_none(path: str) -> Any:
    try:
        return read_json(path)
    except InputError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise
