"""From a finished run to the row of a record and to the README's table of its AP."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Mapping

from detectron2.config import CfgNode

from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import AP_METRICS, METRICS_FILE, TASK_NAMES
from lambda_det.records import provenance, read_text


def row_of_run(folder: str) -> dict:
    """The row of a finished run of ``tools/train_net.py``: its AP in percent and its speed.

    Args:
        folder: the run's OUTPUT_DIR.

    Raises:
        InputError: the folder is not that of a finished run.
    """
    cfg = CfgNode.load_cfg(read_text(folder, "config.yaml"))
    metrics = json.loads(read_text(folder, "inference", METRICS_FILE))
    times = iteration_times(folder)
    row = {
        "variant": cfg.MODEL.LAMBDA_RESNET.VARIANT,
        "depth": cfg.MODEL.LAMBDA_RESNET.DEPTH,
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_iteration": cfg.SOLVER.IMS_PER_BATCH,
        "train_s_per_iteration": {
            "median": round(statistics.median(times), 3),
            "min": round(min(times), 3),
            "max": round(max(times), 3),
        },
    }
    for task, values in metrics.items():
        for name in AP_METRICS:
            value = values[name]
            row[f"{TASK_NAMES[task]}_{name.lower()}"] = None if value is None else round(value, 2)
    return row


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


def ap_table(record: Mapping) -> str:
    """The AP of the record's rows as a Markdown table, with its hardware and command."""
    lines = [
        "| backbone | task | " + " | ".join(AP_METRICS) + " |",
        "|---|---|" + "---|" * len(AP_METRICS),
    ]
    for row in record["rows"]:
        for task in TASK_NAMES.values():
            if f"{task}_ap" not in row:
                continue
            values = (row[f"{task}_{name.lower()}"] for name in AP_METRICS)
            cells = ["–" if value is None else f"{value:.1f}" for value in values]
            lines.append(f"| {row['variant']}-{row['depth']} | {task} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", provenance(record)])
