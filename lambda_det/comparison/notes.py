"""The notes below the tables of a comparison: how to read the tables, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambda_det.comparison.controls import NAMED_STAGES, TRAINED_WITHOUT, ZEROED
from lambda_det.comparison.results import RIGHT_CLASS, ZEROED_MISSING
from lambda_det.comparison.run import run_name
from lambda_det.comparison.run_files import FAILED, FINISHED
from lambda_det.evaluation.detection_limits import COCO_LIMIT
from lambda_det.evaluation.metrics import TASK_NAMES

LOADED = "pretrained_percent"


def notes(record: Mapping) -> list[str]:
    """Sentences that say how to read the tables of a record."""
    rows, runs = record["rows"], record["runs"]
    over = baselines_of(rows)
    budgets = list(dict.fromkeys(map(_budget, rows)))
    if len(budgets) > 1:
        budgets = list(dict.fromkeys(f"{row['set_label']}: {_budget(row)}" for row in rows))
    sentences = [f"{'; '.join(budgets)}."]
    several = len(record["seeds"]) > 1
    spread = ", mean ± sample standard deviation over the seeds" if several else ""
    if over:
        gain = f"; Δ: gain over {' and '.join(over)}"
        if several:
            gain += " with the same seeds, mean and 95 % confidence interval (Student's t)"
    else:
        gain = ""
    unknown = "" if several else " One seed: the spread is unknown."
    sentences.append(f"AP in percent{spread}{gain}.{unknown}")
    if any(len(row.get(f"{t}_ap_gain", {}).get("values", ())) not in (0, row["finished"])
           for row in rows for t in TASK_NAMES.values()):  # fmt: skip
        sentences.append("Some gains are of fewer seeds than the AP: those that both models have.")
    sentences += filter(None, [limit_note(rows)])
    sentences += _control_notes(record)
    sentences += filter(None, (pretrain_note(record), *_loaded_notes(rows)))
    if any(RIGHT_CLASS in row for row in rows):
        sentences.append(
            "Found: the objects that a detection of whatever class meets at IoU 0.5; right class: "
            "those whose most confident such detection has their class."
        )
    if any("multiply_adds_billions" in row for row in rows):
        sentences.append("GMAC: 10⁹ multiply-adds of one image.")
    if any("published" in row for row in rows):
        sentences.append(f"Published: {record['published_source']}.")
    jobs = max((run.get("jobs", 1) for run in runs), default=1)
    if jobs > 1:
        sentences.append(
            f"{jobs} runs at a time shared the machine: times are of that, and longer than alone."
        )
    if any(run.get("resumed") for run in runs):
        sentences.append("Some runs were resumed from a checkpoint.")
    if len({run["gpus"] for run in runs if "gpus" in run}) > 1:
        sentences.append("The runs were on different numbers of GPUs: no comparison of times.")
    if "origins" in record:
        sentences.append("The runs are from different machines, versions or commits.")
        if any(o["hardware"] != record["hardware"] for o in record["origins"]):
            sentences.append("Times and memory are of different hardware: no comparison of them.")
    return sentences


def limit_note(rows: Sequence[Mapping]) -> str:
    """Say how many detections of an image count, where it is not COCO's number; else ""."""
    limits = list(dict.fromkeys(row.get("detections_per_image", COCO_LIMIT) for row in rows))
    if limits in ([], [COCO_LIMIT]):
        return ""
    shown = " or ".join("any number of" if n == -1 else str(n) for n in limits)
    return f"An image has up to {shown} detections, COCO's number is {COCO_LIMIT}."


def baselines_of(rows: Sequence[Mapping]) -> list[str]:
    """Labels of the models that are baselines of gains."""
    labels = {row["model"]: row["label"] for row in rows}
    return list(dict.fromkeys(labels[row["over"]] for row in rows if row["over"]))


def pretrain_note(record: Mapping) -> str:
    """Say which command makes the weights that each run starts from; "" if the suite has none."""
    if "pretrain" not in record:
        return ""
    command = record["pretrain"].strip().replace("{python}", "python")
    return (
        f"Before its training, each run makes the weights that it starts from: `{command}`, where "
        "the run's own values replace the braces."
    )


def _loaded_notes(rows: Sequence[Mapping]) -> list[str]:
    """For every set whose rows started from weights of different coverage, say so: a network with
    lambda layers that starts from a ResNet's weights begins with these layers random."""
    sentences = []
    for set_label in dict.fromkeys(row.get("set_label", "") for row in rows):
        of_set = [row for row in rows if row.get("set_label", "") == set_label]
        finished = [row for row in of_set if row["finished"]]
        shares = {row["label"]: _loaded_share(row) for row in finished}
        if len(set(shares.values())) < 2:
            continue
        listed = ", ".join(f"{label} {share}" for label, share in shares.items())
        where = f"{set_label}: the" if set_label else "The"
        sentences.append(
            f"{where} rows do not start equal, in so far as MODEL.WEIGHTS filled different shares "
            f"of the backbone's parameters ({listed}); the rest started at random. A gain is "
            "therefore of the network and of its initialisation together."
        )
    return sentences


def _loaded_share(row: Mapping) -> str:
    if LOADED not in row:
        return "none known"
    return f"{row[LOADED]['mean']:.1f} %"


def gains_line(rows: Sequence[Mapping]) -> str:
    """Say in one line which models of a set the intervals of their gains tell apart from their
    baselines; "" without gains."""
    labels = {row["model"]: row["label"] for row in rows}
    sentences = []
    for task in TASK_NAMES.values():
        said = []
        for row in rows:
            if gain := row.get(f"{task}_ap_gain"):
                said.append(_told(gain).format(row["label"], labels[row["over"]]))
        if said:
            sentences.append(f"{task.capitalize()} AP: {'; '.join(said)}.")
    return " ".join(sentences)


def _told(gain: Mapping) -> str:
    if gain["low"] is None:
        return "{} and {} are of one seed, which tells nothing apart"
    if gain["low"] <= 0 <= gain["high"]:
        return "{} is not told apart from {} (the interval holds 0)"
    side = "above" if gain["low"] > 0 else "below"
    return f"{{}} lies {side} {{}} with the whole interval of its gain"


def unfinished_runs(record: Mapping) -> list[str]:
    """One line for every run that has no numbers, or none of the evaluation with zeroed
    branches."""
    lines = []
    for run in record["runs"]:
        name = run_name(run.get("set"), run["model"], run["seed"], "without" in run)
        if run["state"] != FINISHED:
            reason = f": {run['reason']}" if run["state"] == FAILED else ""
            lines.append(f"{name}, {run['state']}{reason}")
        elif ZEROED_MISSING in run:
            lines.append(f"{name}, with {NAMED_STAGES} zeroed: {run[ZEROED_MISSING]}")
    return lines


def _control_notes(record: Mapping) -> list[str]:
    rows, controls = record["rows"], record.get("controls", ())
    sentences = []
    if ZEROED in controls:
        sentences.append(
            f"Zeroed: the same weights with the residual branches of {NAMED_STAGES} taken as 0."
        )
    if TRAINED_WITHOUT in controls:
        sentences.append(
            "Trained without: the same recipe and seeds with these branches held at 0 throughout."
        )
    if none := dict.fromkeys(row["label"] for row in rows if controls and not row["controls"]):
        sentences.append(
            f"No controls for {' and '.join(none)}: the backbone is not of this package, or has no "
            "such branches that end with a norm."
        )
    return sentences


def _budget(row: Mapping) -> str:
    return (
        f"{row['iterations']} iterations of {row['images_per_iteration']} images "
        f"({row['train_size']}), learning rate {row['base_lr']:g}"
    )
