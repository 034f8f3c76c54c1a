"""Turns finished runs into one row per run and one row per model and set, with spread and gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from detectron2.config import CfgNode

from lambda_det.analysis.detector import analyze_config
from lambda_det.analysis.published import load_published
from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import CONTROLS, TRAINED_WITHOUT, idle_stages
from lambda_det.comparison.data_digest import DATA
from lambda_det.comparison.results import FOUND, RIGHT_CLASS, result_of
from lambda_det.comparison.run_files import FAILED, FAILED_FILE, FINISHED, facts_of
from lambda_det.comparison.speed import SPEED_SETTINGS, speed_settings, train_size
from lambda_det.comparison.statistics import paired_difference, spread
from lambda_det.comparison.suite import Run, Suite
from lambda_det.errors import InputError
from lambda_det.evaluation.detection_limits import COCO_LIMIT
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
    model_facts: Callable[[CfgNode], Mapping[str, object]] = count_model,
    *,
    command: str = "",
) -> dict[str, object]:
    """Collect what the runs measured: the record of a comparison.

    Args:
        suite, states: the suite, and the states of its runs.
        model_facts: config -> numbers of the model itself, which do not depend on the seed.
        command: the command that was run.

    Returns:
        What :func:`~lambda_det.records.make_record` returns, with hardware, versions and commit of
        the runs (under ``"origins"`` if they differ), and: ``"suite"``: its name. ``"sets"``, if
        the suite has several: name -> label. ``"differences"``: config key -> model -> value, for
        the config keys in which the models differ. ``"data"``, if it is known: what
        :func:`~lambda_det.comparison.data_digest.data_of` returned. ``"runs"``: one row per run
        with its state and, if it has finished, its numbers. ``"rows"``: one row per set and model.
        In a row, a number is ``{"mean", "sd", "values"}`` over the finished seeds,
        ``<metric>_gain`` is ``{"mean", "low", "high", "values"}`` over the model ``"over"``, paired
        by seed, and ``"published"`` contains the paper's numbers.

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
    results = {run: result_of(run) for run, state in states.items() if state == FINISHED}
    runs = [_row_of(run, states[run], results.get(run)) for run in suite.runs]
    _pair_with_controls(runs)
    rows = []
    for set_name, set_label in suite.sets.items():
        whole = [run for run in runs if run.get("set", "") == set_name and "without" not in run]
        of_model = {m: [run for run in whole if run["model"] == m] for m in suite.labels}
        for model, own in of_model.items():
            over = suite.baselines[model]
            rows.append(
                {
                    **({"set": set_name, "set_label": set_label} if set_name else {}),
                    **_model_of_row(suite, set_name, model, own),
                    **_facts(suite, set_name, model, results, model_facts),
                    **_numbers(own, of_model[over] if over != model else ()),
                    **({"published": published[model]} if model in published else {}),
                }
            )
    return {
        **make_record(command, rows, seeds=suite.seeds),
        "suite": suite.name,
        **({"controls": list(suite.controls)} if suite.controls else {}),
        **({"sets": suite.sets} if "" not in suite.sets else {}),
        **({"published_source": published_source()} if published else {}),
        **({"pretrain": suite.pretrain} if suite.pretrain else {}),
        "differences": _differences(suite),
        "runs": runs,
        **_data(list(results.values())),
        **origins_of([result["finished"]["record"] for result in results.values()]),
    }


def _data(results: Sequence[Mapping]) -> dict[str, object]:
    """What the runs were trained and evaluated on, where all that know it agree."""
    known = [result[DATA] for result in results if result.get(DATA)]
    return {DATA: known[0]} if known and all(data == known[0] for data in known) else {}


def origins_of(records: Sequence[Mapping]) -> dict[str, object]:
    """Date, commit, hardware and versions of the runs, from the records that were made of them."""
    if not records:
        return {}
    keys = ("commit", "hardware", "versions")
    origins = list({str(o): o for r in records for o in [{key: r[key] for key in keys}]}.values())
    several = {"origins": origins} if len(origins) > 1 else {}
    return {"date": max(record["date"] for record in records), **origins[0], **several}


def _model_of_row(
    suite: Suite, set_name: str, model: str, own: Sequence[Mapping]
) -> dict[str, object]:
    """What a row says of its model and of the budget."""
    cfg, over = suite.configs[set_name, model], suite.baselines[model]
    node = cfg.MODEL.get("LAMBDA_RESNET", {})
    finished = [run for run in own if run["state"] == FINISHED]
    gpus = {run["gpus"] for run in finished} or {suite.runs[0].gpus}
    row = {
        "model": model,
        "label": suite.labels[model],
        "variant": node.get("VARIANT"),
        "depth": node.get("DEPTH"),
        "gpus": gpus.pop() if len(gpus) == 1 else None,
        "over": None if over == model else over,
        "finished": len(finished),
        "planned": len(own),
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_iteration": cfg.SOLVER.IMS_PER_BATCH,
        "base_lr": cfg.SOLVER.BASE_LR,
        "train_size": train_size(cfg),
        SPEED_SETTINGS: speed_settings(cfg),
    }
    if cfg.TEST.DETECTIONS_PER_IMAGE != COCO_LIMIT:
        row["detections_per_image"] = cfg.TEST.DETECTIONS_PER_IMAGE
    if suite.controls:
        row["controls"] = list(suite.controls) if idle_stages(cfg) is not None else []
    return row


def _numbers(own: Sequence[Mapping], baseline: Sequence[Mapping]) -> dict[str, object]:
    """Means and spreads of a model's finished runs, and the differences to its controls and to the
    runs of its baseline (none for a model that is its own)."""
    finished = [run for run in own if run["state"] == FINISHED]
    columns = (*METRIC_COLUMNS, *CONTROL_COLUMNS, *COST_COLUMNS, FOUND, RIGHT_CLASS)
    numbers: dict[str, object] = {c: spread([run.get(c) for run in finished]) for c in columns}
    for task in TASK_NAMES.values():
        for control in CONTROLS:
            over = _paired(own, f"{task}_ap", own, f"{task}_ap_{control}")
            numbers[f"{task}_ap_over_{control}"] = over
    numbers["last_norm"] = _last_norms(finished)
    for column in METRIC_COLUMNS:
        numbers[f"{column}_gain"] = _paired(own, column, baseline, column)
    return {column: value for column, value in numbers.items() if value is not None}


def _paired(
    own: Sequence[Mapping], column: str, others: Sequence[Mapping], other_column: str
) -> dict | None:
    return paired_difference(
        {run["seed"]: run.get(column) for run in own},
        {run["seed"]: run.get(other_column) for run in others},
    )


def _row_of(run: Run, state: str, result: Mapping | None) -> dict[str, object]:
    """The row of a run: its state, and its numbers when it has finished."""
    row: dict[str, object] = {"set": run.set} if run.set else {}
    row |= {"model": run.model, "seed": run.seed, "state": state}
    if run.without:
        row["without"] = list(CONTROLLED_STAGES)
    if state == FAILED:
        facts = facts_of(run.folder, FAILED_FILE)  # None if another process has begun it again
        row["reason"] = "restarted since" if facts is None else facts["reason"]
    return row | (result["row"] if result is not None else {})


def _pair_with_controls(runs: Sequence[dict]) -> None:
    """Add to each finished run the AP of the control training of the same seed."""

    def place(run: Mapping) -> tuple[str, str, int]:
        return run.get("set", ""), run["model"], run["seed"]

    without = {place(run): run for run in runs if "without" in run}
    for run in runs:
        control = without.get(place(run), {})
        if "without" in run or run["state"] != FINISHED or control.get("state") != FINISHED:
            continue
        for task in TASK_NAMES.values():
            if f"{task}_ap" in control:
                run[f"{task}_ap_{TRAINED_WITHOUT}"] = control[f"{task}_ap"]


def _last_norms(finished: Sequence[Mapping]) -> dict[str, float] | None:
    """Mean |weight| of each stage's last norms, over the runs that logged it."""
    known = [run["last_norm"] for run in finished if "last_norm" in run]
    if not known:
        return None
    return {
        stage: round(fmean(norms[stage] for norms in known if stage in norms), 4)
        for stage in known[0]
    }


def _facts(
    suite: Suite, set_name: str, model: str, results: Mapping[Run, Mapping], model_facts: Callable
) -> Mapping[str, object]:
    """Numbers of the model with the classes of its dataset; {} until one of its runs finishes."""
    for run, result in results.items():
        if (run.set, run.model, run.without) != (set_name, model, False):
            continue
        cfg = suite.configs[set_name, model].clone()
        for node in ("ROI_HEADS", "RETINANET"):
            cfg.MODEL[node].NUM_CLASSES = result["num_classes"]
        return model_facts(cfg)
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
