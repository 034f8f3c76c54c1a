"""What is known of a run, from its folder, whole or broken: ``run.json`` (what it is),
``finished.json`` (written last, when its metrics are there), ``failed.json`` (how the last attempt
ended)."""

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

_WAYS_OUT = "take another --output or remove that folder"

SET_ASIDE = "set_aside_"
"""What a folder is called that keeps files of an earlier attempt which nobody can read."""


def state_of(run: Run) -> str:
    """``"finished"``, ``"failed"``, ``"started"`` or ``"new"``.

    A broken ``finished.json`` or ``failed.json`` is a warning, and the run counts as started.

    Raises:
        InputError: the folder holds a run with other settings, or one of which nobody knows any
            more what it is.
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
    # A key that one side does not know (it is new, or another version of detectron2 has it) was
    # then, or is now, what it is by default.
    then, default = known["settings"], default_settings()
    for key, value in run.settings.items():
        if key == PREPARE and key not in then:
            continue  # a folder has its data beside it; what made them counts elsewhere
        was = then[key] if key in then else default.get(key)
        if was != value:
            raise InputError(
                f"{place} holds a run with {key} {was!r}, the suite says "
                f"{value!r}; {_WAYS_OUT if place == run.folder else 'remove that file'}"
            )
    for key in known.get("changed", ()):  # not in what earlier versions have written
        if key not in run.settings:
            raise InputError(
                f"{place} holds a run with {key} {then[key]!r}, which this version of "
                "detectron2 or of this package does not know; "
                f"{_WAYS_OUT if place == run.folder else 'remove that file'}"
            )


def kept_facts(run: Run) -> dict | None:
    """The JSON that is kept of a finished run, of :func:`~lambda_det.comparison.results.keep`; None
    where there is none, a broken one, or one without the zeroed branches that are asked for.

    Raises:
        InputError: it cannot be read, or is of a run with other settings.
    """
    facts = _read_or_warn(run, run.kept, _check_kept) if run.kept else None
    if facts is None:
        return None
    if facts["key"] != run.key:
        raise InputError(f"{run.kept} is of the run {facts['key']!r}, not {run.key!r}; remove it")
    _check_settings(run, facts, run.kept)
    return None if run.zeroed and not is_zeroed(facts["row"]) else facts


def is_zeroed(row: Mapping) -> bool:
    """Whether a run's numbers have those of its zeroed branches."""
    return any(column.endswith(f"_ap_{ZEROED}") for column in row)


def changed_settings(run: Run) -> list[str]:
    """Keys of the run that are not what they are by default."""
    default = default_settings()
    return [key for key, value in run.settings.items() if default.get(key) != value]


@functools.cache
def default_settings() -> dict[str, object]:
    """Every key and its default, as JSON has it."""
    return json.loads(json.dumps(flat(get_cfg()), default=str))


def description(run: Run) -> dict | None:
    """``run.json``; None where there is none.

    Raises:
        InputError: it is broken.
    """
    try:
        return _read(run, RUN_FILE, _check_description)
    except _BrokenError as error:
        raise InputError(
            f"{error}: whose run lies there is not known; remove that folder or take another "
            "--output"
        ) from error


def facts_of_folder(run: Run) -> dict | None:
    """``finished.json``; None where there is none, or a broken one.

    Raises:
        InputError: it cannot be read.
    """
    return _read_or_warn(run, FINISHED_FILE, _check_finished)


def failed_facts(run: Run, folder: str | None = None) -> dict | None:
    """``failed.json`` likewise; its ``"reason"`` is a line.

    Args:
        run: whose folder is meant.
        folder: another one, below it.
    """
    name = FAILED_FILE if folder is None else os.path.join(folder, FAILED_FILE)
    return _read_or_warn(run, name, lambda facts: _check(facts, {"reason": str}))


def interrupted_facts(run: Run) -> dict | None:
    """What a training leaves that a signal has ended, likewise."""
    kinds = {"signal": str, "iteration": int, "max_iter": int}
    return _read_or_warn(run, INTERRUPTED_FILE, lambda facts: _check(facts, kinds))


def clear(run: Run) -> None:
    """Remove what an earlier attempt left, but for the weights it started from; of a run that is to
    be resumed only its verdict.

    Of a run that had finished, but with a ``finished.json`` that is broken, nothing is removed:
    what would be is set aside.
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
        logger.warning("%s: what an earlier attempt left is kept there", aside)
        os.mkdir(aside)
        for name in sorted(names, key=lambda name: name == FINISHED_FILE):  # the reason goes last
            os.rename(os.path.join(run.folder, name), os.path.join(aside, name))
        return
    for name in names:
        path = os.path.join(run.folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def open_to_write(path: str, mode: str = "w") -> TextIO:
    """``open``.

    Raises:
        InputError: in place of OSError.
    """
    with writing(path):
        return open(path, mode, encoding="utf-8")


class _BrokenError(Exception):
    """A file is not what was once written."""


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
        raise TypeError("no JSON object")
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
