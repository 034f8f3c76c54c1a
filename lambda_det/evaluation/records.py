"""From a finished run to the row of a record and to the README's table of its AP."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import AP_METRICS, METRICS_FILE, TASK_NAMES
from lambda_det.records import provenance, read_text


def zeroed_folder(output_dir: str, stages: Sequence[str]) -> str:
    """Where an evaluation with zeroed stages is written: beside that of the whole network."""
    return os.path.join(output_dir, "_".join(("zeroed", *stages)))


def row_of_run(folder: str, *, without: str = "") -> dict:
    """The row of a finished run of ``tools/train_net.py``: its AP in percent and its speed.

    Where the run was also evaluated with the branches of res4 and res5 zeroed, its row has
    ``box_ap_zeroed`` and ``mask_ap_zeroed``; ``last_norm`` by stage, where it was logged.

    Args:
        folder: the run's OUTPUT_DIR.
        without: OUTPUT_DIR of the same run with these branches held at 0 throughout; gives
            ``box_ap_trained_without`` and ``mask_ap_trained_without``.

    Raises:
        InputError: a folder is not that of a finished run, or ``without`` is another run's.
    """
    cfg = CfgNode.load_cfg(read_text(folder, "config.yaml"))
    metrics = _metrics(folder)
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
    row |= _zeroed(folder)
    if without:
        _check_without(without, cfg)
        row |= _control(without, "trained_without")
    if norms := last_norms(folder):
        row["last_norm"] = norms
    return row


def controls_text(row: Mapping, recorded: Mapping) -> str:
    """What the controls say of one run's AP, for people.

    Args:
        row: of :func:`row_of_run`, with its zeroed evaluation.
        recorded: of such a run whose *trained without* is known.
    """
    tasks = [task for task in TASK_NAMES.values() if f"{task}_ap_zeroed" in row]
    stages = " and ".join(CONTROLLED_STAGES)

    def listing(column: str, values: Mapping) -> str:
        return ", ".join(f"{task} AP {values[f'{task}_ap{column}']:.1f}" for task in tasks)

    zeroed = f"{listing('', row)}; with the branches of {stages} zeroed {listing('_zeroed', row)}."
    if all(row[f"{task}_ap_zeroed"] >= 0.99 * row[f"{task}_ap"] for task in tasks):
        verdict = "It is no worse without them: they are idle."
    else:
        verdict = (
            "They are not idle, but this alone does not show that they are needed: a random branch "
            "would be missed too."
        )
    return (
        f"{zeroed} {verdict} Trained without them from the start, the same network reached "
        f"{listing('_trained_without', recorded)} (results/quickstart.json). Such shapes can be "
        "told apart without deep features: the numbers say that the whole path works, and nothing "
        "of one backbone against another."
    )


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


def _metrics(folder: str) -> dict[str, dict]:
    return json.loads(read_text(folder, "inference", METRICS_FILE))


def _control(folder: str, name: str) -> dict[str, float | None]:
    """``box_ap_NAME``, ``mask_ap_NAME``."""
    return {
        f"{TASK_NAMES[task]}_ap_{name}": None if v["AP"] is None else round(v["AP"], 2)
        for task, v in _metrics(folder).items()
    }


def _zeroed(folder: str) -> dict[str, float | None]:
    zeroed = zeroed_folder(folder, CONTROLLED_STAGES)
    own, other = (os.path.join(f, "inference", METRICS_FILE) for f in (folder, zeroed))
    if not os.path.isfile(other):
        return {}
    if os.path.getmtime(other) < os.path.getmtime(own):
        raise InputError(
            f"{other}: is older than the evaluation of the whole network, and so perhaps of other "
            "weights; evaluate with --zeroed again"
        )
    return _control(zeroed, "zeroed")


def _check_without(folder: str, cfg: CfgNode) -> None:
    """Is the run in ``folder`` that of ``cfg`` but for the branches that it is to lack?"""
    expected, found = cfg.clone(), CfgNode.load_cfg(read_text(folder, "config.yaml"))
    expected.MODEL.LAMBDA_RESNET.IDLE_STAGES = list(CONTROLLED_STAGES)
    for node in (expected, found):  # where things lie, not what they are
        node.OUTPUT_DIR = node.DATASETS.COCO_FOLDER = ""
    keys, others = flat(expected), flat(found)
    for key in keys.keys() | others.keys():
        if keys.get(key) != others.get(key):
            raise InputError(
                f"{folder}: is not the same run without the branches of "
                f"{' and '.join(CONTROLLED_STAGES)}: {key} is {others.get(key)!r} there, "
                f"{keys.get(key)!r} is expected"
            )


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """A config as ``{"SOLVER.MAX_ITER": 100, …}``."""
    keys: dict[str, object] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys.update(flat(value, f"{name}.") if isinstance(value, CfgNode) else {name: value})
    return keys


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
    """The AP of the record's rows as a Markdown table, with its hardware and command.

    The controls that a row has (``box_ap_zeroed``, ``box_ap_trained_without``) stand beside AP, its
    last norms below.
    """
    controls = [
        name
        for name in ("zeroed", "trained_without")
        if any(f"{task}_ap_{name}" in row for row in record["rows"] for task in TASK_NAMES.values())
    ]
    headers = ["AP", *(f"AP, {name.replace('_', ' ')}" for name in controls), *AP_METRICS[1:]]
    columns = ["ap", *(f"ap_{name}" for name in controls), *map(str.lower, AP_METRICS[1:])]
    lines = [
        "| backbone | task | " + " | ".join(headers) + " |",
        "|---|---|" + "---|" * len(headers),
    ]
    for row in record["rows"]:
        for task in TASK_NAMES.values():
            if f"{task}_ap" not in row:
                continue
            values = (row.get(f"{task}_{column}") for column in columns)
            cells = ["–" if value is None else f"{value:.1f}" for value in values]
            lines.append(f"| {row['variant']}-{row['depth']} | {task} | {' | '.join(cells)} |")
    norms = [
        f"{row['variant']}-{row['depth']} "
        + ", ".join(f"{stage} {value:.3f}" for stage, value in row["last_norm"].items())
        for row in record["rows"]
        if "last_norm" in row
    ]
    if norms:
        lines += ["", f"Mean |last norm| of the residual branches: {'; '.join(norms)}."]
    return "\n".join([*lines, "", provenance(record)])
