"""What a run has left in its folder: its times, its last norms, its config key by key."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence

from lambda_det.config import flat  # noqa: F401  (imported from here, too)
from lambda_det.errors import InputError
from lambda_det.records import read_text


def zeroed_folder(output_dir: str, stages: Sequence[str]) -> str:
    """Where an evaluation with zeroed stages is written: beside that of the whole network."""
    return os.path.join(output_dir, "_".join(("zeroed", *stages)))


def last_norms(folder: str) -> dict[str, float]:
    """Stage -> mean |weight| of its last norms at the end of a run; {} of a
    run of an earlier version, which has not logged them.

    Raises:
        InputError: the folder is not that of a training.
    """
    prefix = "last_norm/"
    norms: dict[str, float] = {}
    for line in metrics_lines(folder):  # the last counts
        found = {key: value for key, value in line.items() if key.startswith(prefix)}
        norms |= {key.removeprefix(prefix): round(value, 4) for key, value in found.items()}
    return norms


def metrics_lines(folder: str) -> list[dict]:
    """The lines of detectron2's ``metrics.json``, without those that a killed run has cut off.

    Raises:
        InputError: the folder is not that of a training.
    """
    lines = []
    for line in read_text(folder, "metrics.json").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def iteration_times(folder: str) -> list[float]:
    """Seconds of an iteration, as detectron2 has logged them; of a repeated run the last counts.

    Raises:
        InputError: the folder is not that of a training, or it was too short.
    """
    log = metrics_lines(folder)
    starts = [i for i in range(1, len(log)) if log[i]["iteration"] < log[i - 1]["iteration"]]
    log = log[starts[-1] if starts else 0 :]  # detectron2 appends
    times = [entry["time"] for entry in log if "time" in entry]
    if not times:
        raise InputError(f"{folder}/metrics.json: no iteration was timed, the run is too short")
    return times
