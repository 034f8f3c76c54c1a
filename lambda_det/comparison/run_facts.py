"""The numbers of one run, from the files that a training leaves."""

from __future__ import annotations

import json
import logging
import os
import re
import statistics

import yaml
from detectron2.config import CfgNode

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import ZEROED
from lambda_det.comparison.right_classes import FOUND, RIGHT_CLASS
from lambda_det.comparison.run_files import (
    FAILED,
    FINISHED,
    FINISHED_FILE,
    facts_of_folder,
    failed_facts,
    kept_facts,
)
from lambda_det.comparison.suite import Run
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS, METRICS_FILE, PER_CLASS, TASK_NAMES
from lambda_det.evaluation.records import iteration_times, last_norms, metrics_lines, zeroed_folder
from lambda_det.records import read_text

logger = logging.getLogger(__name__)

METRIC_COLUMNS = tuple(f"{task}_{name.lower()}" for task in TASK_NAMES.values() for name in METRICS)
"""``box_ap`` … ``mask_arl``, in percent."""

COST_COLUMNS = (
    "train_ms_per_image", "inference_ms_per_image", "peak_host_memory_mib", "peak_gpu_memory_mib",
    "pretrained_percent",
)  # fmt: skip

ZEROED_MISSING = "zeroed_missing"
"""Column of a run: why its evaluation with zeroed branches is not there."""

# detectron2 0.5 counts "img", later versions "iter"; the test loader's batches are single images.
_INFERENCE = re.compile(r"pure compute time: .*\(([\d.]+) s / (?:img|iter) per device")
# A line of the coverage that loading weights logs: ... loaded numbers, numbers, percent.
_COVERAGE = re.compile(r"^(?:stem|res\d) .* ([\d,]+) +([\d,]+) +[\d.-]+$", re.M)


def row_of(run: Run, state: str) -> dict[str, object]:
    """The row of a run: its state, and its numbers when it is finished.

    Raises:
        InputError: a file of a finished run is missing or broken.
    """
    row: dict[str, object] = {"model": run.model, "seed": run.seed, "state": state}
    if run.without:
        row["without"] = list(CONTROLLED_STAGES)
    if state == FAILED:
        row["reason"] = (failed_facts(run) or {"reason": "taken up anew since"})["reason"]
    if state != FINISHED:
        return row
    kept = kept_facts(run)
    if kept is None:
        return row | numbers_of(run)
    hidden = () if run.zeroed else tuple(f"{task}_ap_{ZEROED}" for task in TASK_NAMES.values())
    return row | {column: value for column, value in kept["row"].items() if column not in hidden}


def numbers_of(run: Run) -> dict[str, object]:
    """What a finished run measured, from its folder.

    Raises:
        InputError: a file of it is missing or broken.
    """
    row: dict[str, object] = {}
    facts = facts_of_folder(run)
    if facts is None:
        raise InputError(f"{os.path.join(run.folder, FINISHED_FILE)} is gone or broken")
    for task, values in _metrics(run.folder).items():
        for name in METRICS:
            row[f"{TASK_NAMES[task]}_{name.lower()}"] = values[name]
    if run.zeroed:
        zeroed = zeroed_metrics(run)
        if zeroed is None:
            row[ZEROED_MISSING] = zeroed_missing(run)
        else:
            for task, values in zeroed.items():
                row[f"{TASK_NAMES[task]}_ap_{ZEROED}"] = values["AP"]
    if norms := last_norms(run.folder):
        row["last_norm"] = norms
    log = _log(run.folder)
    row |= {
        "train_ms_per_image": train_ms(run.folder),
        "inference_ms_per_image": _inference_ms(log),
        "peak_host_memory_mib": facts["peak_host_memory_mib"],
        "peak_gpu_memory_mib": _peak_gpu_memory(run.folder),
        "pretrained_percent": _coverage(log),
        FOUND: facts.get(FOUND),
        RIGHT_CLASS: facts.get(RIGHT_CLASS),
        "run_s": facts["last_attempt_s"],
        "jobs": facts["jobs"],
        "gpus": facts["gpus"],
        "resumed": facts["resumed"],
    }
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def zeroed_metrics(run: Run) -> dict[str, dict] | None:
    """COCO's name of a task -> metrics of a run's weights with zeroed branches; None where that
    was not evaluated, or is broken."""
    folder = zeroed_folder(run.folder, CONTROLLED_STAGES)
    try:
        return _metrics(folder)
    except InputError as error:
        if os.path.exists(os.path.join(folder, "inference", METRICS_FILE)):
            logger.warning("%s: it is evaluated anew", error)
        return None


def zeroed_missing(run: Run) -> str | None:
    """Why a finished run, whose zeroed branches are to be evaluated, has no metrics of that; None
    where it has them, or where that is not asked for."""
    if not run.zeroed or kept_facts(run) is not None or zeroed_metrics(run) is not None:
        return None
    failed = failed_facts(run, zeroed_folder(run.folder, CONTROLLED_STAGES))
    return "not evaluated yet" if failed is None else failed["reason"]


def train_size(cfg: CfgNode) -> str:
    """Size of the images that a config trains on, as text: times of other sizes say nothing."""
    if cfg.INPUT.LSJ.ENABLED:
        return "{}×{} jittered".format(*cfg.INPUT.LSJ.SIZE)
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    least, most = min(sizes), max(sizes)
    side = str(most) if least == most else f"{least}–{most}"
    return f"short side {side}, at most {cfg.INPUT.MAX_SIZE_TRAIN}"


def losses(folder: str) -> dict[int, float]:
    """Finished iterations -> total loss, from detectron2's log; a repeated run's last counts."""
    return {
        line["iteration"] + 1: line["total_loss"]
        for line in metrics_lines(folder)
        if "total_loss" in line
    }


def class_metrics(folder: str) -> dict[str, dict[str, dict]]:
    """Task (``box``, ``mask``) -> name of a class -> its metrics, of a finished run."""
    return {
        TASK_NAMES[task]: {entry["name"]: entry for entry in values.get(PER_CLASS, [])}
        for task, values in _metrics(folder).items()
    }


def train_ms(folder: str) -> float | None:
    """Milliseconds of training per image: the median over the logged iterations; None where the run
    was too short to be timed."""
    try:
        seconds = statistics.median(iteration_times(folder))
    except InputError as error:
        logger.warning("%s", error)
        return None
    return 1000 * seconds / built_config(folder).SOLVER.IMS_PER_BATCH


def built_config(folder: str) -> CfgNode:
    """The config that a run was started with, as it has noted it.

    Raises:
        InputError: there is none, or it is none.
    """
    path = os.path.join(folder, "config.yaml")
    try:
        cfg = CfgNode.load_cfg(read_text(path))
    except (yaml.YAMLError, AssertionError, AttributeError) as error:
        raise InputError(f"{path}: is no config ({' '.join(str(error).split())})") from error
    if "SOLVER" not in cfg:
        raise InputError(f"{path}: is no config (it has no SOLVER)")
    return cfg


def _inference_ms(log: str) -> float | None:
    """Of the last evaluation in detectron2's log; None where it says nothing."""
    found = _INFERENCE.findall(log)
    return 1000 * float(found[-1]) if found else None


def _peak_gpu_memory(folder: str) -> float | None:
    """Of the first process, in MiB; None on a CPU."""
    found = (line.get("peak_gpu_memory_mib") for line in metrics_lines(folder))
    # 0 is what an earlier version wrote of a run on the CPU of a machine with a GPU.
    return max(filter(None, found), default=None)


def _coverage(log: str) -> float | None:
    """Percentage of the backbone's parameters that MODEL.WEIGHTS filled; None without weights."""
    text = log[log.rfind("MODEL.WEIGHTS=") :] if "MODEL.WEIGHTS=" in log else ""
    counts = [[int(count.replace(",", "")) for count in line] for line in _COVERAGE.findall(text)]
    total = sum(of for _, of in counts)
    return 100 * sum(loaded for loaded, _ in counts) / total if total else None


def _log(folder: str) -> str:
    try:
        with open(os.path.join(folder, "log.txt"), encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _metrics(folder: str) -> dict[str, dict]:
    """COCO's name of a task -> its metrics."""
    path = os.path.join(folder, "inference", METRICS_FILE)
    try:
        content = json.loads(read_text(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})") from error
    known = isinstance(content, dict) and all(
        task in TASK_NAMES and isinstance(values, dict) and values.keys() >= {*METRICS}
        for task, values in content.items()
    )
    if not known:
        raise InputError(f"{path}: does not hold the metrics of {' and '.join(TASK_NAMES)}")
    return content
