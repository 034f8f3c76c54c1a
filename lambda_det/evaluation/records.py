"""Records of measured runs, ``results/<name>.json``: what every number of the README comes from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode

from lambda_det.errors import InputError
from lambda_det.evaluation.coco import AP_METRICS, METRICS_FILE, TASK_NAMES
from lambda_det.version import __version__

SCHEMA = 1
_PACKAGES = ("torch", "torchvision", "detectron2", "numpy", "pycocotools")


def make_record(command: str, rows: Sequence[Mapping], seeds: Sequence[int]) -> dict:
    """A record around measured rows: who measured them, when, on what and with what.

    Args:
        command: what makes the numbers, to be run in the root of the checkout.
        rows: numbers with their unit in the name (``box_ap50``, ``train_s_per_iteration``).
        seeds: random seeds of the runs.
    """
    return {
        "schema": SCHEMA,
        "command": command,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": _hardware(),
        "versions": _versions(),
        "seeds": list(seeds),
        "rows": list(rows),
    }


def row_of_run(folder: str) -> dict:
    """The row of a finished run of ``tools/train_net.py``: its AP in percent and its speed.

    Args:
        folder: the run's OUTPUT_DIR.

    Raises:
        InputError: the folder is not that of a finished run.
    """
    cfg = CfgNode.load_cfg(_read(folder, "config.yaml"))
    metrics = json.loads(_read(folder, "inference", METRICS_FILE))
    log = [json.loads(line) for line in _read(folder, "metrics.json").splitlines()]
    starts = [i for i in range(1, len(log)) if log[i]["iteration"] < log[i - 1]["iteration"]]
    log = log[starts[-1] if starts else 0 :]  # detectron2 appends: the last run counts
    times = [entry["time"] for entry in log if "time" in entry]
    if not times:
        raise InputError(f"{folder}/metrics.json: no iteration was timed, the run is too short")
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


def write_record(record: Mapping, path: str) -> None:
    """Write the record as JSON, at once or not at all."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)


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
    hardware = record["hardware"]
    device = hardware["gpu"] or f"{hardware['cpu']}, {hardware['cores']} cores"
    return "\n".join([*lines, "", f"`{record['command']}` ({device}, {record['date']})"])


def update_tables(text: str, results: str) -> str:
    """``text`` with every part between ``<!-- NAME.json -->`` and ``<!-- end -->`` made anew.

    Args:
        text: Markdown.
        results: folder of the records.

    Raises:
        InputError: a record that the text names does not exist.
    """

    def replace(match: re.Match) -> str:
        record = json.loads(_read(results, match["name"]))
        return f"<!-- {match['name']} -->\n{ap_table(record)}\n<!-- end -->"

    return re.sub(r"<!-- (?P<name>[\w.-]+\.json) -->\n.*?<!-- end -->", replace, text, flags=re.S)


def _read(*parts: str) -> str:
    path = os.path.join(*parts)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}, expected a finished run") from error


def _commit() -> str | None:
    """The checkout's commit, with a ``+`` when files differ from it; None outside a checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        command = ["git", "-C", here, "describe", "--always", "--abbrev=12", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _hardware() -> dict[str, object]:
    cpu = platform.processor() or platform.machine()
    if os.path.isfile("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = re.search(r"^model name\s*: (.*)$", file.read(), re.M)
        cpu = found[1] if found else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "lambda_det": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a plain checkout on PYTHONPATH
            versions[name] = "source"
    return versions
