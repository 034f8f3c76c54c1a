"""Reads the state of a run from its folder, and recognises damaged files.

``run.json`` describes the run, ``finished.json`` is written last, after the metrics, and
``failed.json`` says how the last attempt ended.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from typing import TextIO

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import ZEROED
from lambda_det.comparison.run import PREPARE, PRETRAINED_FILE, Run
from lambda_det.config import flat, get_cfg
from lambda_det.engine.interruption import INTERRUPTED_FILE
from lambda_det.errors import InputError, writing
from lambda_det.evaluation.run_folder import zeroed_folder

logger = logging.getLogger(__name__)

FINISHED, FAILED, STARTED, NEW = "finished", "failed", "started", "new"

RUN_FILE, FINISHED_FILE, FAILED_FILE = "run.json", "finished.json", "failed.json"

_WAYS_OUT = "choose another --output or remove that folder"

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
    _check_settings(run, known, run.folder)
    if facts_of_folder(run) is not None:
        return FINISHED
    return STARTED if failed_facts(run) is None else FAILED


def _check_settings(run: Run, known: Mapping, place: str) -> None:
    # A key that only one side knows (it is new, or only another version of detectron2 has it)
    # counts with its default value on the other side.
    then, default = known["settings"], default_settings()
    for key, value in run.settings.items():
        if key == PREPARE and key not in then:
            continue  # a run's folder has its data beside it; only a kept JSON needs this
        was = then[key] if key in then else default.get(key)
        if was != value:
            raise InputError(
                f"{place} contains a run with {key} {was!r}, the suite says "
                f"{value!r}; {_WAYS_OUT if place == run.folder else 'remove that file'}"
            )
    for key in known.get("changed", ()):  # earlier versions have not written it
        if key not in run.settings:
            raise InputError(
                f"{place} contains a run with {key} {then[key]!r}, which this version of "
                "detectron2 or of this package does not know; "
                f"{_WAYS_OUT if place == run.folder else 'remove that file'}"
            )


def kept_facts(run: Run) -> dict | None:
    """Read the JSON of a finished run, as :func:`~lambda_det.comparison.results.keep` wrote it.

    Returns:
        None if the JSON does not exist, is broken, or lacks the evaluation with zeroed branches
        that the suite asks for.

    Raises:
        InputError: the JSON cannot be read, or it belongs to a run with other settings.
    """
    facts = _read_or_warn(run, run.kept, _check_kept) if run.kept else None
    if facts is None:
        return None
    if facts["key"] != run.key:
        raise InputError(
            f"{run.kept} belongs to the run {facts['key']!r}, not {run.key!r}; remove it"
        )
    _check_settings(run, facts, run.kept)
    return None if run.zeroed and not is_zeroed(facts["row"]) else facts


def is_zeroed(row: Mapping) -> bool:
    """Whether a run's numbers include those of the evaluation with zeroed branches."""
    return any(column.endswith(f"_ap_{ZEROED}") for column in row)


def changed_settings(run: Run) -> list[str]:
    """The config keys of a run whose values are not the defaults."""
    default = default_settings()
    return [key for key, value in run.settings.items() if default.get(key) != value]


@functools.cache
def default_settings() -> dict[str, object]:
    """Every config key and its default, with the types of JSON."""
    return json.loads(json.dumps(flat(get_cfg()), default=str))


def description(run: Run) -> dict | None:
    """Read ``run.json``; None if it does not exist.

    Raises:
        InputError: the file cannot be read, or it is broken.
    """
    try:
        return _read(run, RUN_FILE, _check_description)
    except _BrokenError as error:
        raise InputError(
            f"{error}: which run that folder contains is not known; remove it or choose another "
            "--output"
        ) from error


def facts_of_folder(run: Run) -> dict | None:
    """Read ``finished.json``; None if it does not exist or is broken.

    Raises:
        InputError: the file cannot be read.
    """
    return _read_or_warn(run, FINISHED_FILE, _check_finished)


def failed_facts(run: Run, folder: str | None = None) -> dict | None:
    """Read ``failed.json``; None if it does not exist or is broken. Its ``"reason"`` is one line.

    Args:
        run: the run.
        folder: folder of the file; None means the run's own.

    Raises:
        InputError: the file cannot be read.
    """
    name = FAILED_FILE if folder is None else os.path.join(folder, FAILED_FILE)
    return _read_or_warn(run, name, lambda facts: _check(facts, {"reason": str}))


def interrupted_facts(run: Run) -> dict | None:
    """Read the file that a training writes when a signal ends it; None if it does not exist or is
    broken."""
    kinds = {"signal": str, "iteration": int, "max_iter": int}
    return _read_or_warn(run, INTERRUPTED_FILE, lambda facts: _check(facts, kinds))


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
        zeroed = os.path.basename(zeroed_folder(run.folder, CONTROLLED_STAGES))
        verdicts = (FAILED_FILE, FINISHED_FILE, INTERRUPTED_FILE, zeroed)
        names = [name for name in names if name in verdicts]
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


def open_to_write(path: str, mode: str = "w") -> TextIO:
    """Open a text file in UTF-8.

    Raises:
        InputError: the file cannot be opened (in place of OSError).
    """
    with writing(path):
        return open(path, mode, encoding="utf-8")


class _BrokenError(Exception):
    """The content of a file is not what this package writes."""


def _read_or_warn(run: Run, name: str, check: Callable[[dict], None]) -> dict | None:
    try:
        return _read(run, name, check)
    except _BrokenError as error:
        logger.warning("%s: the run counts as unfinished", error)
        return None


def _read(run: Run, name: str, check: Callable[[dict], None]) -> dict | None:
    path = os.path.join(run.folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        check(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise _BrokenError(f"{path} is broken ({reason})") from error
    return content


def _check(facts: object, kinds: dict[str, type]) -> None:
    if not isinstance(facts, dict):
        raise TypeError("not a JSON object")
    for key, kind in kinds.items():
        value = facts[key]
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{key!r} is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key!r} is {value!r}")


def _check_description(content: dict) -> None:
    _check(content, {"settings": dict, "attempts": int})
    if unknown := set(content.get("changed", ())) - content["settings"].keys():
        raise ValueError(f"'changed' names {min(map(str, unknown))!r}")


def _check_kept(content: dict) -> None:
    kinds = {"key": str, "settings": dict, "finished": dict, "row": dict, "losses": dict,
             "classes": dict, "num_classes": int}  # fmt: skip
    _check(content, kinds)
    _check_finished(content["finished"])
    _check(content["row"], {"gpus": int, "jobs": int})
    for iteration, loss in content["losses"].items():
        _check({"loss": loss, "iteration": int(iteration)}, {"loss": float})


def _check_finished(facts: dict) -> None:
    kinds = {"last_attempt_s": float, "jobs": int, "gpus": int, "resumed": bool, "record": dict}
    _check(facts, kinds)
    record = facts["record"]
    _check(record, {"date": str, "hardware": dict, "versions": dict})
    _ = record["commit"], [record["hardware"][key] for key in ("cpu", "cores", "gpu")]
