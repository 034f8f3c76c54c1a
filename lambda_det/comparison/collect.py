"""Turns finished runs into one row per run and one row per model and set, with spread and gain."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from detectron2.config import CfgNode

from lambda_det.analysis.detector import analyze_config
from lambda_det.analysis.published import load_published
from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import CONTROLS, TRAINED_WITHOUT, idle_stages
from lambda_det.comparison.results import FOUND, RIGHT_CLASS, result_of
from lambda_det.comparison.run_files import FAILED, FINISHED, FINISHED_FILE, failed_facts
from lambda_det.comparison.speed import SPEED_SETTINGS, speed_settings, train_size
from lambda_det.comparison.statistics import paired_difference, spread
from lambda_det.comparison.suite import Run, Suite
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS, TASK_NAMES
from lambda_det.records import make_record
from lambda_det.shipped_configs import ROOT

PUBLISHED = ROOT / "configs" / "published"
_PUBLISHED_TABLE = "mask_rcnn"

METRIC_COLUMNS = tuple(f"{task}_{name.lower()}" for task in TASK_NAMES.values() for name in METRICS)
"""``box_ap`` … ``mask_arl``, in percent."""

COST_COLUMNS = (
    "train_ms_per_image", "inference_ms_per_image", "peak_host_memory_mib", "peak_gpu_memory_mib",
    "pretrained_percent",
)  # fmt: skip

CONTROL_COLUMNS = tuple(f"{task}_ap_{name}" for task in TASK_NAMES.values() for name in CONTROLS)
"""``box_ap_zeroed`` … ``mask_ap_trained_without``, in percent."""


def count_model(cfg: CfgNode) -> dict[str, object]:
    """Count the parameters and multiply-adds of a config's detector, at the config's test size."""
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
    """Collect what the runs measured: the part of the record specific to a comparison.

    Args:
        suite: as returned by :func:`~lambda_det.comparison.suite.read_suite`.
        states: as returned by :func:`~lambda_det.comparison.running.execute`.
        facts_of: config -> numbers of the model itself, which do not depend on the seed.

    Returns:
        ``"suite"``: its name. ``"sets"``, if the suite has several: name -> label.
        ``"differences"``: config key -> model -> value, for the config keys in which the models
        differ. ``"runs"``: one row per run with its state and, if it has finished, its numbers.
        ``"rows"``: one row per set and model. In a row, a number is ``{"mean", "sd", "values"}``
        over the finished seeds, ``<metric>_gain`` is ``{"mean", "low", "high", "values"}`` over
        the model ``"over"``, paired by seed, and ``"published"`` contains the paper's numbers.

        If the suite has controls, ``"controls"`` lists them; in a row it lists those that the
        model has. ``box_ap_zeroed`` and ``box_ap_trained_without`` are the AP under them
        (``mask_ap…`` likewise), and ``box_ap_over_<control>`` is the paired difference
        AP − control, in the form of a gain. A row of ``"runs"`` for a training without branches
        lists their stages under ``"without"``. ``last_norm``: stage -> mean |weight| of its norms.

        Numbers that a run does not have (masks of a box detector, say) are absent.

    Raises:
        InputError: a model names a row that was not published, or a file of a run is damaged.
    """
    published = published_rows(suite)
    results = {run: _result(run) for run, state in states.items() if state == FINISHED}
    runs = [_row_of(run, states[run], results.get(run)) for run in suite.runs]
    _pair_with_controls(runs)
    rows = []
    for set_name, set_label in suite.sets.items():
        for model, label in suite.labels.items():
            own = _runs_of(runs, set_name, model)
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
            if suite.controls:
                has_stages = idle_stages(suite.configs[set_name, model]) is not None
                row["controls"] = list(suite.controls) if has_stages else []
            row.update(_facts(suite, set_name, model, results, facts_of))
            for column in (*METRIC_COLUMNS, *CONTROL_COLUMNS, *COST_COLUMNS, FOUND, RIGHT_CLASS):
                summary = spread([entry.get(column) for entry in finished])
                if summary is not None:
                    row[column] = summary
            row.update(_over_controls(own) | _last_norms(finished))
            if over != model:
                row.update(_gains(own, _runs_of(runs, set_name, over)))
            if model in published:
                row["published"] = published[model]
            rows.append(row)
    return {
        "suite": suite.name,
        **({"controls": list(suite.controls)} if suite.controls else {}),
        **({"sets": suite.sets} if "" not in suite.sets else {}),
        **({"published_source": published_source()} if published else {}),
        **({"pretrain": suite.pretrain} if suite.pretrain else {}),
        "differences": _differences(suite),
        "rows": rows,
        "runs": runs,
    }


def comparison_record(suite: Suite, collected: Mapping[str, object], command: str) -> dict:
    """The record: what :func:`collect` returned, with hardware, versions and commit of the runs."""
    record = make_record(command, collected["rows"], seeds=suite.seeds) | collected
    states = [row["state"] for row in collected["runs"]]
    finished = [
        result["finished"]
        for run, state in zip(suite.runs, states, strict=True)
        if state == FINISHED and (result := result_of(run)) is not None
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
    """Number of GPUs of each run of a row; None if it differs."""
    numbers = {run["gpus"] for run in finished} or {planned}
    return numbers.pop() if len(numbers) == 1 else None


def _result(run: Run) -> dict:
    result = result_of(run)
    if result is None:
        path = os.path.join(run.folder, FINISHED_FILE)
        raise InputError(f"{path} is missing or damaged; run the suite again")
    return result


def _row_of(run: Run, state: str, result: Mapping | None) -> dict[str, object]:
    """The row of a run: its state, and its numbers when it has finished."""
    row: dict[str, object] = {"set": run.set} if run.set else {}
    row |= {"model": run.model, "seed": run.seed, "state": state}
    if run.without:
        row["without"] = list(CONTROLLED_STAGES)
    if state == FAILED:
        row["reason"] = (failed_facts(run) or {"reason": "restarted since"})["reason"]
    return row | (result["row"] if result is not None else {})


def _runs_of(runs: Sequence[Mapping], set_name: str, model: str) -> list[Mapping]:
    """The model's runs, excluding the control trainings without residual branches."""
    return [
        run
        for run in runs
        if (run.get("set", ""), run["model"]) == (set_name, model) and "without" not in run
    ]


def _pair_with_controls(runs: Sequence[dict]) -> None:
    """Add to each finished run the AP of the control training of the same seed."""
    without = {_place(run): run for run in runs if "without" in run}
    for run in runs:
        control = without.get(_place(run), {})
        if "without" in run or run["state"] != FINISHED or control.get("state") != FINISHED:
            continue
        for task in TASK_NAMES.values():
            if f"{task}_ap" in control:
                run[f"{task}_ap_{TRAINED_WITHOUT}"] = control[f"{task}_ap"]


def _place(run: Mapping) -> tuple[str, str, int]:
    return run.get("set", ""), run["model"], run["seed"]


def _over_controls(own: Sequence[Mapping]) -> dict[str, dict]:
    differences = {}
    for task in TASK_NAMES.values():
        for control in CONTROLS:
            values, others = (
                {run["seed"]: run.get(column) for run in own}
                for column in (f"{task}_ap", f"{task}_ap_{control}")
            )
            difference = paired_difference(values, others)
            if difference is not None:
                differences[f"{task}_ap_over_{control}"] = difference
    return differences


def _last_norms(finished: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Mean |weight| of each stage's last norms, over the runs that logged it."""
    known = [run["last_norm"] for run in finished if "last_norm" in run]
    if not known:
        return {}
    return {
        "last_norm": {
            stage: round(fmean(norms[stage] for norms in known if stage in norms), 4)
            for stage in known[0]
        }
    }


def _gains(own: Sequence[Mapping], reference: Sequence[Mapping]) -> dict[str, dict]:
    gains = {}
    for column in METRIC_COLUMNS:
        values, baseline = ({r["seed"]: r.get(column) for r in rows} for rows in (own, reference))
        difference = paired_difference(values, baseline)
        if difference is not None:
            gains[f"{column}_gain"] = difference
    return gains


def _facts(
    suite: Suite, set_name: str, model: str, results: Mapping[Run, Mapping], facts_of: Callable
) -> Mapping[str, object]:
    """Numbers of the model with the classes of its dataset; {} until one of its runs finishes."""
    for run, result in results.items():
        if (run.set, run.model, run.without) != (set_name, model, False):
            continue
        cfg = suite.configs[set_name, model].clone()
        for node in ("ROI_HEADS", "RETINANET"):
            cfg.MODEL[node].NUM_CLASSES = result["num_classes"]
        return facts_of(cfg)
    return {}


def published_rows(suite: Suite) -> dict[str, dict[str, object]]:
    """Find the published row that each model of a suite names.

    Raises:
        InputError: a model names a row that was not published.
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
    """Config keys that differ between models, from the first set: all sets have the same models."""
    first = next(iter(suite.sets))
    configs = {
        run.model: run.settings for run in suite.runs if run.set == first and not run.without
    }
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    found = {key: {model: config.get(key) for model, config in configs.items()} for key in keys}
    return {
        key: values
        for key, values in found.items()
        if any(value != next(iter(values.values())) for value in values.values())
    }


def published_source() -> str:
    """The source of the numbers in columns marked "published"."""
    table = load_published(PUBLISHED)[_PUBLISHED_TABLE]
    return f"{table.title}, {table.source}"
