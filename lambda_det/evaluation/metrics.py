"""COCO's metrics: names, computation from pycocotools' arrays, tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tabulate import tabulate

from lambda_det.errors import printable

AP_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AR_METRICS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
METRICS = AP_METRICS + AR_METRICS
"""The twelve names of boxes and masks in the order of pycocotools' ``COCOeval.stats``."""
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
"""The ten names of keypoints, likewise."""

METRICS_FILE = "metrics.json"
PER_CLASS = "per_class"
"""Key of the list with the metrics of each class; it stands beside the metrics of a task."""

TASK_NAMES = {"bbox": "box", "segm": "mask"}
"""Map from COCO's name of a task to the name in tables."""

# Indices of a metric in COCOeval's arrays: area range (all, small, medium, large), detections for
# each image and class (1, 10, 100, and maybe a larger number, which is that of AP), IoU threshold
# (None: the mean over 0.50, 0.55 … 0.95).
_INDEX = {
    "AP": (0, -1, None), "AP50": (0, -1, 0), "AP75": (0, -1, 5),
    "APs": (1, -1, None), "APm": (2, -1, None), "APl": (3, -1, None),
    "AR1": (0, 0, None), "AR10": (0, 1, None), "AR100": (0, 2, None),
    "ARs": (1, 2, None), "ARm": (2, 2, None), "ARl": (3, 2, None),
}  # fmt: skip
# Keypoints have no small objects, and 20 detections are the only limit.
_KEYPOINT_INDEX = {
    name: ({"m": 1, "l": 2}.get(name[2:], 0), 0, {"50": 0, "75": 5}.get(name[2:]))
    for name in KEYPOINT_METRICS
}


def metric_names(task: str) -> tuple[str, ...]:
    """Return the names of a task's metrics; the task is ``"bbox"``, ``"segm"``, ``"keypoints"`` or
    one of the first two with an ending."""
    return KEYPOINT_METRICS if task == "keypoints" else METRICS


def metrics_from_counts(
    precision: np.ndarray, recall: np.ndarray, classes: slice = slice(None), task: str = "bbox"
) -> dict[str, float | None]:
    """Compute the metrics of a task from the arrays of a ``COCOeval``.

    Args:
        precision: ``COCOeval.eval["precision"]``, (10 IoU thresholds, 101 recalls, classes, 4 area
            ranges, 3 or 4 detection limits, the last of which is that of AP); it is −1 where there
            are no objects. Keypoints have 3 area ranges and 1 limit.
        recall: ``COCOeval.eval["recall"]``, (10, classes, 4, 3 or 4) likewise.
        classes: the classes to average over.
        task: gives the names, see :func:`metric_names`.

    Returns:
        Metric -> percent, None where there is no ground truth.
    """
    metrics = {}
    index = _KEYPOINT_INDEX if task == "keypoints" else _INDEX
    for name, (area, limit, threshold) in index.items():
        counts = precision if name.startswith("AP") else recall
        values = counts[..., classes, area, limit]
        metrics[name] = _mean_percent(values if threshold is None else values[threshold])
    return metrics


def metrics_record(
    results: Mapping[str, Mapping[str, Any]], *, per_class: bool = True
) -> dict[str, dict]:
    """Select the metrics of every task, in order, for a JSON file.

    Args:
        results: task -> metric -> percent. Other entries are left out; NaN becomes None, which is
            null in JSON.
        per_class: whether to include the metrics of each class if ``results`` has them.
    """
    record: dict[str, dict[str, Any]] = {}
    for task, values in results.items():
        if "AP" not in values:  # such as detectron2's "box_proposals"
            continue
        record[task] = {name: _number_or_none(values[name]) for name in metric_names(task)}
        if per_class and PER_CLASS in values:
            record[task][PER_CLASS] = values[PER_CLASS]
    return record


def metrics_table(results: Mapping[str, Mapping[str, Any]], kind: str = "AP") -> str:
    """Format the metrics of every task as a table for a terminal; ``-`` means undefined.

    Args:
        results: task -> metric -> percent.
        kind: ``"AP"`` or ``"AR"``, with which the names of the metrics begin.
    """
    results = {task: values for task, values in results.items() if "AP" in values}
    names = dict.fromkeys(
        name for task in results for name in metric_names(task) if name.startswith(kind)
    )
    rows = [
        [TASK_NAMES.get(task, task), *(_number_or_none(values.get(name)) for name in names)]
        for task, values in results.items()
    ]
    return _table(rows, ["", *names])


def per_class_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format AP, AP50 and AR100 (AR of keypoints) of every class as a table for a terminal, tasks
    side by side."""
    shown = {task: ("AP", "AP50", "AR100") for task in results}
    if "keypoints" in shown:
        shown["keypoints"] = ("AP", "AP50", "AR")
    rows: dict[int, list] = {}
    for task, values in results.items():
        for entry in values[PER_CLASS]:
            row = rows.setdefault(entry["id"], [printable(entry["name"])])
            row.extend(entry[name] for name in shown[task])
    headers = [f"{TASK_NAMES.get(task, task)} {name}" for task in results for name in shown[task]]
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
