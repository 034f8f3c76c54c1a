"""The twelve COCO metrics: their names, how they follow from the counts, table and JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from lambda_det.errors import InputError, printable

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AR_METRICS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = AP_METRICS + AR_METRICS
"""In the order of pycocotools' ``COCOeval.stats``."""

METRICS_FILE = "metrics.json"
PER_CLASS = "per_class"
"""Key, beside the metrics of a task, of a list with the metrics of each class."""

TASK_NAMES = {"bbox": "box", "segm": "mask"}
"""COCO's name of a task -> the one that people read."""

# Where a metric lies in the counts: area range (all, s, m, l), detections per image and class
# (1, 10, 100), IoU threshold (None: the mean over 0.50, 0.55 … 0.95; else its index).
_AP_INDEX = {
    "AP": (0, 2, None), "AP50": (0, 2, 0), "AP75": (0, 2, 5),
    "APs": (1, 2, None), "APm": (2, 2, None), "APl": (3, 2, None),
}  # fmt: skip
_AR_INDEX = {
    "AR1": (0, 0), "AR10": (0, 1), "AR100": (0, 2), "ARs": (1, 2), "ARm": (2, 2), "ARl": (3, 2),
}  # fmt: skip


def metrics_from_counts(
    precision: np.ndarray, recall: np.ndarray, classes: slice = slice(None)
) -> dict[str, float | None]:
    """:data:`METRICS` in percent; None where there is no ground truth to judge by.

    Args:
        precision: (10 thresholds, 101 recalls, classes, 4 areas, 3 limits), −1 without objects,
            as ``COCOeval.eval["precision"]``.
        recall: (10, classes, 4, 3) likewise.
        classes: those to average over.
    """
    metrics = {}
    for name, (area, limit, threshold) in _AP_INDEX.items():
        values = precision[:, :, classes, area, limit]
        metrics[name] = _mean_percent(values if threshold is None else values[threshold])
    for name, (area, limit) in _AR_INDEX.items():
        metrics[name] = _mean_percent(recall[:, classes, area, limit])
    return metrics


def metrics_record(
    results: Mapping[str, Mapping[str, Any]], *, per_class: bool = True
) -> dict[str, dict]:
    """What is written as JSON: the twelve metrics of every task, in order.

    Args:
        results: task -> metric -> percent (None or NaN: null); what else is in there is left out.
        per_class: also the metrics of each class, where ``results`` has them.
    """
    record: dict[str, dict[str, Any]] = {}
    for task, values in results.items():
        if "AP" not in values:  # "box_proposals" and the like
            continue
        record[task] = {name: _number_or_none(values[name]) for name in METRICS}
        if per_class and PER_CLASS in values:
            record[task][PER_CLASS] = values[PER_CLASS]
    return record


def check_writable(path: str, flag: str = "--output") -> None:
    """Make the folder of ``path``; better asked before an evaluation than after it.

    Args:
        path: of a file.
        flag: of the command line, to be named in the error.

    Raises:
        InputError: no file can be written there.
    """
    # A device (/dev/null) or a pipe would be replaced by a file.
    if not os.path.basename(path) or (os.path.exists(path) and not os.path.isfile(path)):
        raise InputError(f"{flag} {path} cannot be written: it names no file")
    trial = f"{path}.tmp"  # as write_json makes it
    try:
        os.makedirs(os.path.dirname(trial) or ".", exist_ok=True)
        with open(trial, "w", encoding="utf-8"):
            pass
        os.unlink(trial)
    except OSError as error:
        raise InputError(f"{flag} {path} cannot be written: {error.strerror}") from error


def metrics_table(
    results: Mapping[str, Mapping[str, Any]], names: Sequence[str] = AP_METRICS
) -> str:
    """Metrics of every task as a table for a terminal; ``-`` where COCO defines no number."""
    rows = [
        [TASK_NAMES.get(task, task), *(_number_or_none(values[name]) for name in names)]
        for task, values in results.items()
        if "AP" in values
    ]
    return _table(rows, ["", *names])


def per_class_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """AP, AP50 and AR100 of every class as a table for a terminal, the tasks side by side."""
    shown = ("AP", "AP50", "AR100")
    rows: dict[int, list] = {}
    for values in results.values():
        for entry in values[PER_CLASS]:
            row = rows.setdefault(entry["id"], [printable(entry["name"])])
            row.extend(entry[name] for name in shown)
    headers = [f"{TASK_NAMES.get(task, task)} {name}" for task in results for name in shown]
    return _table(list(rows.values()), ["class", *headers])


def _table(rows: list[list], headers: list[str]) -> str:
    return tabulate(
        rows,
        headers=headers,
        tablefmt="rounded_outline",
        floatfmt=".1f",
        missingval="-",
        disable_numparse=[0],  # a class may be called 1e3
    )


def _mean_percent(values: np.ndarray) -> float | None:
    counted = values[values > -1]  # COCO's own -1 means that there is no ground truth
    return float(counted.mean() * 100) if counted.size else None


def _number_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
