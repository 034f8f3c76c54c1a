"""The record of the "why" study: a row for each network and kind of scenes, over all seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from lambda_det.comparison.statistics import paired_difference, spread, t975
from lambda_det.configs import load_config
from lambda_det.errors import InputError
from lambda_det.randomness import seed_everything
from lambda_det.records import make_record
from studies.evidence.networks import build_network
from studies.evidence.scenes import draw_scene
from studies.evidence.true_boxes import normalised
from studies.evidence.why_plan import CONFIG, EVERY, IMAGES, Run, scenes_name, stored
from studies.views.receptive_field import radius_holding, receptive_field

SUBJECT = "lambda"
"""The network that the others are compared with."""

Found = dict[Run, dict]
"""Finished run -> its result."""

Group = tuple[str, str, str]
"""(part, name of the scenes, network)."""


def collect(runs: Sequence[Run], store: str) -> Found:
    """Read the results that a store has of some runs.

    Raises:
        InputError: the store has none of them, or one with other settings.
    """
    found = {run: left for run in runs if (left := stored(run, store)) is not None}
    if not found:
        raise InputError(f"--store {store}: has none of {len(runs)} planned runs")
    return found


def grouped(found: Found) -> dict[Group, dict[int, dict]]:
    """Group results by part, scenes and network, and then by seed, in the order of the plan."""
    groups: dict[Group, dict[int, dict]] = {}
    for run, left in found.items():
        key = run.part, scenes_name(run.set, run.layout), run.network
        groups.setdefault(key, {})[run.seed] = left
    return groups


def record_of(found: Found, planned: int) -> dict:
    """Make the record of the study (see :func:`lambda_det.records.make_record`).

    ``kind_accuracy_percent`` of a row is measured on validation scenes, where chance is 50; ``low``
    and ``high`` are the 95 % interval of its mean over the seeds. ``lambda_leads_by_percent`` is
    the accuracy of the network ``lambda`` minus that of the row's network, paired by seed, since
    runs of one seed see the same scenes.

    Args:
        found: results of the finished runs.
        planned: number of runs in the plan.
    """
    groups = grouped(found)
    radii = {network: half_radius(network) for network in dict.fromkeys(key[2] for key in groups)}
    rows = [
        _row(seeds, groups.get((part, scenes, SUBJECT), {}))
        | {"half_radius_px": round(radii[network], 1)}
        for (part, scenes, network), seeds in groups.items()
    ]
    runs = [*found.values()]
    record = make_record(
        "python -m studies.evidence.why --record", rows, sorted({run.seed for run in found}),
        with_gpu=False,
    )  # fmt: skip
    return record | {
        # those of the runs, not of this process
        "hardware": runs[0]["hardware"],
        "versions": runs[0]["versions"],
        "runs": {
            "done": len(found),
            "missing": planned - len(found),
            "commits": sorted({str(run["commit"]) for run in runs}),
            "dates": sorted({run["date"] for run in runs}),
            "cpus": sorted({run["hardware"]["cpu"] for run in runs}),
        },
    }


def _row(seeds: Mapping[int, dict], subject: Mapping[int, dict]) -> dict:
    first = next(iter(seeds.values()))
    accuracy = {seed: left["kind_accuracy_percent"] for seed, left in seeds.items()}
    row = {
        **{name: first[name] for name in ("part", "set", "layout", "network", "iterations")},
        "seeds": [*seeds],
        "kind_accuracy_percent": with_interval([*accuracy.values()]),
        "iterations_to_90_percent": [_iterations_to(90, left) for left in seeds.values()],
        "train_cpu_s": spread([left["train_cpu_s"] for left in seeds.values()]),
        **{name: first[name] for name in ("parameters", "multiply_adds")},
    }
    if first["moved"]:
        row["moved"] = {
            block: round(statistics.fmean(left["moved"][block] for left in seeds.values()), 4)
            for block in first["moved"]
        }
    if first["network"] != SUBJECT:
        of_subject = {seed: left["kind_accuracy_percent"] for seed, left in subject.items()}
        row["lambda_leads_by_percent"] = paired_difference(of_subject, accuracy)
    return row


def _iterations_to(percent: float, left: Mapping) -> int | None:
    """Iterations after which a point of the training curve first has an accuracy of ``percent``.

    Iterations with scenes of ``rows`` that a run begins with do not count. None if no point has it.
    """
    skipped = left["rows_first"] // EVERY
    for number, right in enumerate(left["curve"][skipped:], start=1):
        if right >= percent:
            return number * EVERY
    return None


def with_interval(values: Sequence[float]) -> dict[str, object] | None:
    """Add ``low`` and ``high`` to :func:`lambda_det.comparison.statistics.spread`.

    They are the 95 % interval of the mean by Student's t, or None for a single value.
    """
    summary = spread(values)
    if summary is None:
        return None
    low = high = None
    if len(values) > 1:
        mean = statistics.fmean(values)
        half = t975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = round(mean - half, 3), round(mean + half, 3)
    return summary | {"low": low, "high": high}


def half_radius(network: str, seed: int = 1) -> float:
    """Radius in pixels that contains half of the receptive field of the untrained network.

    It is measured at the middle of a scene of the set ``rows``, on the FPN level that the head
    uses. The statistics of the norms are those of a batch of scenes, so that the branches are as
    strong as in the first iteration.
    """
    cfg, stream = load_config(str(CONFIG)), np.random.default_rng(seed)
    seed_everything(seed)
    fpn = build_network(network).fpn
    images = normalised(np.stack([draw_scene(stream, "rows").image for _ in range(IMAGES)]), cfg)
    for module in fpn.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        fpn.train()(images)
    level = fpn.eval()(images[:1])["p2"]
    row, column = (side // 2 for side in level.shape[-2:])
    stride = images.shape[-1] // level.shape[-1]
    centre = (stride * row + (stride - 1) / 2, stride * column + (stride - 1) / 2)
    return radius_holding(receptive_field(fpn, images[:1], "p2", (row, column)), centre)
