"""Finished runs -> a row per run, and a row per model (and set) with spread and gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from detectron2.config import CfgNode

from lambda_det.analysis.detector import analyze_config
from lambda_det.analysis.published import load_published
from lambda_det.errors import InputError
from lambda_det.experiments.run_facts import (
    COST_COLUMNS,
    METRIC_COLUMNS,
    built_config,
    row_of,
    train_size,
)
from lambda_det.experiments.run_files import FINISHED, finished_facts
from lambda_det.experiments.speed import SPEED_SETTINGS, speed_settings
from lambda_det.experiments.statistics import paired_difference, spread
from lambda_det.experiments.suite import Run, Suite
from lambda_det.project import ROOT
from lambda_det.records import make_record

PUBLISHED = ROOT / "configs" / "published"
_PUBLISHED_TABLE = "mask_rcnn"


def count_model(cfg: CfgNode) -> dict[str, object]:
    """Parameters and multiply-adds of the detector that a config builds, at its test size."""
    row = analyze_config(cfg, latency=False)
    return {
        "parameters_millions": round(row["parameters"]["total"] / 1e6, 3),
        "multiply_adds_billions": round(sum(row["multiply_adds_by_part"].values()) / 1e9, 2),
        "counted_at": f"{row['height']}×{row['width']}",
    }


def collect(
    suite: Suite,
    states: Mapping[Run, str],
    facts_of: Callable[[CfgNode], Mapping[str, object]] = count_model,
) -> dict[str, object]:
    """What the runs measured: the part of a record that is the comparison's own.

    Args:
        suite: of :func:`read_suite`.
        states: of :func:`execute`.
        facts_of: config -> numbers of the model itself, which do not depend on the seed.

    Returns:
        ``"suite"``, its name; ``"sets"`` where it has some, name -> label; ``"differences"``,
        config key -> model -> value, of what the models do not share. ``"runs"``: a row per run
        with its state and, when finished, its numbers. ``"rows"``: a row per set and model;
        a number is ``{"mean", "sd", "values"}`` over the finished seeds, ``<metric>_gain`` is
        ``{"mean", "low", "high", "values"}`` over the model ``"over"``, paired by seed;
        ``"published"`` holds the paper's. Numbers that a run does not have (masks of a box
        detector, say) are absent.

    Raises:
        InputError: a model names a row that was not published, or a run's file is broken.
    """
    published = published_rows(suite)
    runs = [_with_set(run, row_of(run, states[run])) for run in suite.runs]
    rows = []
    for set_name, set_label in suite.sets.items():
        for model, label in suite.labels.items():
            own = [r for r in runs if r["model"] == model and r.get("set", "") == set_name]
            finished = [row for row in own if row["state"] == FINISHED]
            node = suite.configs[set_name, model].MODEL.get("LAMBDA_RESNET", {})
            over = suite.baselines[model]
            row: dict[str, object] = {
                **({"set": set_name, "set_label": set_label} if set_name else {}),
                "model": model,
                "label": label,
                "variant": node.get("VARIANT"),
                "depth": node.get("DEPTH"),
                "gpus": _gpus(finished, suite.runs[0].gpus),
                "over": None if over == model else over,
                "finished": len(finished),
                "planned": len(own),
                **_budget(suite.configs[set_name, model]),
                SPEED_SETTINGS: speed_settings(suite.configs[set_name, model]),
            }
            row.update(_facts(suite, set_name, model, states, facts_of))
            for column in (*METRIC_COLUMNS, *COST_COLUMNS):
                summary = spread([entry.get(column) for entry in finished])
                if summary is not None:
                    row[column] = summary
            if over != model:
                reference = [r for r in runs if r["model"] == over and r.get("set", "") == set_name]
                row.update(_gains(own, reference))
            if model in published:
                row["published"] = published[model]
            rows.append(row)
    return {
        "suite": suite.name,
        **({"sets": suite.sets} if "" not in suite.sets else {}),
        **({"published_source": published_source()} if published else {}),
        "differences": _differences(suite),
        "rows": rows,
        "runs": runs,
    }


def comparison_record(suite: Suite, collected: Mapping[str, object], command: str) -> dict:
    """The record: what :func:`collect` gave, with hardware, versions and commit of the runs."""
    record = make_record(command, collected["rows"], seeds=suite.seeds) | collected
    states = [row["state"] for row in collected["runs"]]
    finished = [
        facts
        for run, state in zip(suite.runs, states, strict=True)
        if state == FINISHED and (facts := finished_facts(run)) is not None
    ]
    origins: dict[str, dict] = {}
    for facts in finished:
        origin = {key: facts["record"][key] for key in ("commit", "hardware", "versions")}
        origins[str(origin)] = origin
    if origins:
        record["date"] = max(facts["record"]["date"] for facts in finished)
        record |= next(iter(origins.values()))
    if len(origins) > 1:
        record["origins"] = list(origins.values())
    return record


def _budget(cfg: CfgNode) -> dict[str, object]:
    return {
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_iteration": cfg.SOLVER.IMS_PER_BATCH,
        "base_lr": cfg.SOLVER.BASE_LR,
        "train_size": train_size(cfg),
    }


def _gpus(finished: Sequence[Mapping], planned: int) -> int | None:
    """That each run of a row trained on; None where they differ."""
    numbers = {run["gpus"] for run in finished} or {planned}
    return numbers.pop() if len(numbers) == 1 else None


def _with_set(run: Run, row: dict) -> dict:
    return {"set": run.set, **row} if run.set else row


def _gains(own: Sequence[Mapping], reference: Sequence[Mapping]) -> dict[str, dict]:
    gains = {}
    for column in METRIC_COLUMNS:
        values, baseline = ({r["seed"]: r.get(column) for r in rows} for rows in (own, reference))
        difference = paired_difference(values, baseline)
        if difference is not None:
            gains[f"{column}_gain"] = difference
    return gains


def _facts(
    suite: Suite, set_name: str, model: str, states: Mapping[Run, str], facts_of: Callable
) -> Mapping[str, object]:
    """Of the model as it was built, with the classes of its dataset; nothing before a run ended."""
    for run, state in states.items():
        if (run.set, run.model, state) != (set_name, model, FINISHED):
            continue
        cfg = suite.configs[set_name, model].clone()
        built = built_config(run.folder)
        for node in ("ROI_HEADS", "RETINANET"):
            cfg.MODEL[node].NUM_CLASSES = built.MODEL[node].NUM_CLASSES
        return facts_of(cfg)
    return {}


def published_rows(suite: Suite) -> dict[str, dict[str, object]]:
    """Model -> the published row that it names.

    Raises:
        InputError: there is no such row.
    """
    if not suite.published:
        return {}
    table = load_published(PUBLISHED)[_PUBLISHED_TABLE]
    rows = {row.name: {"name": row.name, **row.values} for row in table.rows}
    for model, name in suite.published.items():
        if name not in rows:
            raise InputError(
                f"suite {suite.name}: models.{model}.published {name!r}: expected one of "
                f"{', '.join(rows)}"
            )
    return {model: rows[name] for model, name in suite.published.items()}


def _differences(suite: Suite) -> dict[str, dict[str, object]]:
    """Of the first set: every set has the same models."""
    first = next(iter(suite.sets))
    configs = {run.model: run.settings for run in suite.runs if run.set == first}
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    found = {key: {model: config.get(key) for model, config in configs.items()} for key in keys}
    return {
        key: values
        for key, values in found.items()
        if any(value != next(iter(values.values())) for value in values.values())
    }


def published_source() -> str:
    """Where the numbers in columns marked "published" are from."""
    table = load_published(PUBLISHED)[_PUBLISHED_TABLE]
    return f"{table.title}, {table.source}"
