"""Reading of what a training run has written to its output folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence

from lambda_det.errors import InputError
from lambda_det.io import read_text


def zeroed_folder(output_dir: str, stages: Sequence[str]) -> str:
    """Folder for an evaluation whose residual branches are set to zero in some stages.

    Args:
        output_dir: folder of the evaluation of the whole network.
        stages: names of the zeroed stages, such as ``res4``.
    """
    return os.path.join(output_dir, "_".join(("zeroed", *stages)))


def last_norms(folder: str) -> dict[str, float]:
    """Read the mean |weight| of the last norms of each stage at the end of a run.

    Args:
        folder: output folder of the run.

    Returns:
        Stage -> mean; empty for a run of an earlier version, which did not log them.

    Raises:
        InputError: the folder has no ``metrics.json`` of a training.
    """
    prefix = "last_norm/"
    norms: dict[str, float] = {}
    for line in metrics_lines(folder):  # a later line replaces an earlier one
        found = {key: value for key, value in line.items() if key.startswith(prefix)}
        norms |= {key.removeprefix(prefix): round(value, 4) for key, value in found.items()}
    return norms


def metrics_lines(folder: str) -> list[dict]:
    """Read the lines of detectron2's ``metrics.json``, without those that a killed run cut off.

    Raises:
        InputError: the folder has no ``metrics.json`` of a training.
    """
    lines = []
    for line in read_text(folder, "metrics.json").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def iteration_times(folder: str) -> list[float]:
    """Read the seconds per iteration that detectron2 logged, of the last run in the folder.

    Raises:
        InputError: the folder has no ``metrics.json`` of a training, or the run was too short.
    """
    log = metrics_lines(folder)
    starts = [i for i in range(1, len(log)) if log[i]["iteration"] < log[i - 1]["iteration"]]
    log = log[starts[-1] if starts else 0 :]  # detectron2 appends to the file of an earlier run
    times = [entry["time"] for entry in log if "time" in entry]
    if not times:
        raise InputError(f"{folder}/metrics.json: no iteration was timed, the run is too short")
    return times
