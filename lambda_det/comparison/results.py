"""Reads what a finished run has measured (:func:`result_of`), and writes the JSON that a suite
keeps of it (its key ``keep``), which contains all that tables and curves need without the run's
folder."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Mapping

import yaml
from detectron2.config import CfgNode

from lambda_det.comparison.controls import ZEROED
from lambda_det.comparison.data_digest import DATA
from lambda_det.comparison.run import Run
from lambda_det.comparison.run_files import (
    FAILED_FILE,
    FINISHED_FILE,
    description,
    facts_of,
    kept_facts,
)
from lambda_det.comparison.settings import changed_settings
from lambda_det.engine.summary import read_summary
from lambda_det.errors import InputError, reason_of, writing
from lambda_det.evaluation.metrics import METRICS, METRICS_FILE, PER_CLASS, TASK_NAMES
from lambda_det.evaluation.run_folder import iteration_times, last_norms, metrics_lines
from lambda_det.io import read_json, read_text, write_json

logger = logging.getLogger(__name__)

ZEROED_MISSING = "zeroed_missing"
"""Column of a run: why its evaluation with zeroed branches is missing."""

FOUND, RIGHT_CLASS = "found_percent", "right_class_percent"
"""Columns: see :func:`~lambda_det.comparison.objects_found.objects_found`."""


def result_of(run: Run) -> dict:
    """Read what a finished run has measured, from the JSON that is kept of it or else from its
    folder.

    Returns:
        ``"finished"``: the content of ``finished.json``, with the record of machine and code.
        ``"row"``: the numbers of the run's row in ``results.json``. ``"losses"``: number of
        finished iterations -> total loss. ``"classes"``: task (``box``, ``mask``) -> name of a
        class -> its metrics. ``"num_classes"``: number of classes of the dataset. ``"data"``: what
        :func:`~lambda_det.comparison.data_digest.data_of` returned before the run; None if that is
        not known.

    Raises:
        InputError: a file of a finished run is missing or damaged, or it belongs to a run with
            other settings.
    """
    kept = kept_facts(run)
    if kept is None:
        return _result_of_folder(run)
    hidden = () if run.zeroed else tuple(f"{task}_ap_{ZEROED}" for task in TASK_NAMES.values())
    return {
        "finished": kept["finished"],
        "row": {column: value for column, value in kept["row"].items() if column not in hidden},
        "losses": {int(iteration): loss for iteration, loss in kept["losses"].items()},
        "classes": kept["classes"],
        "num_classes": kept["num_classes"],
        DATA: kept.get(DATA),
    }


def keep(run: Run) -> None:
    """Write the JSON of a finished run from its folder, if the suite has ``keep`` and the JSON does
    not exist yet. It is not written before the run is evaluated with zeroed branches.

    Raises:
        InputError: a file of the run is missing or damaged, or the JSON cannot be written.
    """
    if not run.kept or kept_facts(run) is not None or zeroed_missing(run) is not None:
        return
    known = {"key": run.key, "settings": run.settings, "changed": changed_settings(run.settings)}
    with writing(run.kept):
        write_json(known | _result_of_folder(run), run.kept, indent=None)


def _result_of_folder(run: Run) -> dict:
    facts = facts_of(run.folder, FINISHED_FILE)
    if facts is None:
        path = os.path.join(run.folder, FINISHED_FILE)
        raise InputError(f"{path} is missing or damaged; run the suite again")
    cfg, metrics = built_config(run.folder), _metrics(run.folder)
    log = metrics_lines(run.folder)
    retina = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    return {
        "finished": facts,
        "row": _numbers(run, cfg, facts, metrics, log),
        # After a resumed training an iteration may be logged twice; the last line counts.
        "losses": {i["iteration"] + 1: i["total_loss"] for i in log if "total_loss" in i},
        "classes": {
            TASK_NAMES[task]: {entry["name"]: entry for entry in values.get(PER_CLASS, [])}
            for task, values in metrics.items()
        },
        "num_classes": (cfg.MODEL.RETINANET if retina else cfg.MODEL.ROI_HEADS).NUM_CLASSES,
        DATA: (description(run) or {}).get(DATA),
    }


def _numbers(
    run: Run, cfg: CfgNode, facts: Mapping, metrics: Mapping[str, Mapping], log: list[dict]
) -> dict[str, object]:
    row: dict[str, object] = {}
    for task, values in metrics.items():
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
    summary = read_summary(run.folder)
    # An earlier version wrote 0 for a run on the CPU of a machine with a GPU.
    gpu_memory = filter(None, (line.get("peak_gpu_memory_mib") for line in log))
    row |= {
        "train_ms_per_image": train_ms(run.folder, cfg),
        "inference_ms_per_image": summary.get("inference_ms_per_image"),
        "peak_host_memory_mib": facts.get("peak_host_memory_mib"),
        "peak_gpu_memory_mib": max(gpu_memory, default=None),
        "pretrained_percent": summary.get("pretrained_percent"),
        FOUND: facts.get(FOUND),
        RIGHT_CLASS: facts.get(RIGHT_CLASS),
        "run_s": facts["last_attempt_s"],
        "jobs": facts["jobs"],
        "gpus": facts["gpus"],
        "resumed": facts["resumed"],
    }
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def zeroed_metrics(run: Run) -> dict[str, dict] | None:
    """Read the metrics of a run's weights with zeroed branches.

    Returns:
        COCO's name of a task (``bbox``, ``segm``) -> metrics in percent; None if the weights were
        not evaluated that way, or the file is damaged.
    """
    try:
        return _metrics(run.zeroed_folder)
    except InputError as error:
        if os.path.exists(os.path.join(run.zeroed_folder, "inference", METRICS_FILE)):
            logger.warning("%s: the run is evaluated again", error)
        return None


def zeroed_missing(run: Run) -> str | None:
    """Why a finished run has no metrics with zeroed branches; None if it has them, or needs
    none."""
    if not run.zeroed or kept_facts(run) is not None or zeroed_metrics(run) is not None:
        return None
    failed = facts_of(run.zeroed_folder, FAILED_FILE)
    return "not evaluated yet" if failed is None else failed["reason"]


def train_ms(folder: str, cfg: CfgNode) -> float | None:
    """Training time per image in milliseconds, the median over the logged iterations of a run with
    config ``cfg``; None if the run was too short to be timed."""
    try:
        seconds = statistics.median(iteration_times(folder))
    except InputError as error:
        logger.warning("%s", error)
        return None
    return 1000 * seconds / cfg.SOLVER.IMS_PER_BATCH


def built_config(folder: str) -> CfgNode:
    """Read the config that a run was started with from ``config.yaml`` in its folder.

    Raises:
        InputError: the file cannot be read, or it is not a config.
    """
    path = os.path.join(folder, "config.yaml")
    text = read_text(path)
    try:
        return CfgNode.load_cfg(text)
    except (yaml.YAMLError, AssertionError, AttributeError) as error:
        raise InputError(f"{path}: is not a config ({reason_of(error)})") from error


def _metrics(folder: str) -> dict[str, dict]:
    """Read ``metrics.json`` below a folder: COCO's name of a task -> its metrics."""
    path = os.path.join(folder, "inference", METRICS_FILE)
    content = read_json(path)
    content.pop("keypoints", None)  # a comparison is of boxes and masks
    for task in content:
        if task not in TASK_NAMES or not content[task].keys() >= {*METRICS}:
            raise InputError(f"{path}: does not contain the metrics of {' and '.join(TASK_NAMES)}")
    return content
