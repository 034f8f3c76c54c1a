"""The twelve COCO metrics: names, computation from pycocotools' arrays, tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from lambda_det.errors import printable

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AR_METRICS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = AP_METRICS + AR_METRICS
"""The twelve names in the order of pycocotools' ``COCOeval.stats``."""

METRICS_FILE = "metrics.json"
PER_CLASS = "per_class"
"""Key of the list with the metrics of each class; it stands beside the metrics of a task."""

TASK_NAMES = {"bbox": "box", "segm": "mask"}
"""Map from COCO's name of a task to the name in tables."""

# Indices of a metric in COCOeval's arrays: area range (all, small, medium, large), detections for
# each image and class (1, 10, 100), IoU threshold (None: the mean over 0.50, 0.55 … 0.95).
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
    """Compute :data:`METRICS` from the arrays of a ``COCOeval``.

    Args:
        precision: ``COCOeval.eval["precision"]``, (10 IoU thresholds, 101 recalls, classes, 4 area
            ranges, 3 detection limits); it is −1 where there are no objects.
        recall: ``COCOeval.eval["recall"]``, (10, classes, 4, 3) likewise.
        classes: the classes to average over.

    Returns:
        Metric -> percent, None where there is no ground truth.
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
    """Select the twelve metrics of every task, in order, for a JSON file.

    Args:
        results: task -> metric -> percent. Other entries are left out; NaN becomes None, which is
            null in JSON.
        per_class: whether to include the metrics of each class if ``results`` has them.
    """
    record: dict[str, dict[str, Any]] = {}
    for task, values in results.items():
        if "AP" not in values:  # such as detectron2's "box_proposals"
            continue
        record[task] = {name: _number_or_none(values[name]) for name in METRICS}
        if per_class and PER_CLASS in values:
            record[task][PER_CLASS] = values[PER_CLASS]
    return record


def metrics_table(
    results: Mapping[str, Mapping[str, Any]], names: Sequence[str] = AP_METRICS
) -> str:
    """Format the metrics of every task as a table for a terminal; ``-`` means undefined."""
    rows = [
        [TASK_NAMES.get(task, task), *(_number_or_none(values[name]) for name in names)]
        for task, values in results.items()
        if "AP" in values
    ]
    return _table(rows, ["", *names])


def per_class_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format AP, AP50 and AR100 of every class as a table for a terminal, tasks side by side."""
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
        disable_numparse=[0],  # a class name such as "1e3" stays text
    )


def _mean_percent(values: np.ndarray) -> float | None:
    counted = values[values > -1]  # pycocotools writes -1 where there is no ground truth
    return float(counted.mean() * 100) if counted.size else None


def _number_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
