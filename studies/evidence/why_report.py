"""The record of the "why" study: a row for each network and kind of scenes, over the seeds."""

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
from studies.evidence.why_plan import CONFIG, IMAGES, Run, scenes_name, stored
from studies.views.receptive_field import radius_holding, receptive_field

SUBJECT = "lambda"
"""The network that the others are compared with."""

Found = dict[Run, dict]
"""A run of the plan that has been done -> what it has left."""

Group = tuple[str, str, str]
"""Part, name of the scenes, network."""


def collect(runs: Sequence[Run], store: str) -> Found:
    """What the store has of some runs.

    Raises:
        InputError: none of them is there, or one is there with other settings.
    """
    found = {run: left for run in runs if (left := stored(run, store)) is not None}
    if not found:
        raise InputError(f"--store {store}: has none of {len(runs)} planned runs")
    return found


def grouped(found: Found) -> dict[Group, dict[int, dict]]:
    """Part, scenes and network -> seed -> what the run has left, in the order of the plan."""
    groups: dict[Group, dict[int, dict]] = {}
    for run, left in found.items():
        key = run.part, scenes_name(run.set, run.layout), run.network
        groups.setdefault(key, {})[run.seed] = left
    return groups


def record_of(found: Found, planned: int) -> dict:
    """The record: see :func:`lambda_det.records.make_record`.

    Of each row ``kind_accuracy_percent`` is measured on scenes that no training shows, at chance
    50; ``low`` and ``high`` are the 95 % interval of its mean over the seeds.
    ``lambda_leads_by_percent`` is the accuracy of the network ``lambda`` less that of the row's,
    paired by seed (they saw the same scenes).

    Args:
        found: of the runs that are done.
        planned: number of runs.
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
        # Of the runs, not of what wrote this.
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


def with_interval(values: Sequence[float]) -> dict[str, object] | None:
    """As :func:`lambda_det.comparison.statistics.spread`, with ``low`` and ``high``, the 95 %
    interval of the mean by Student's t; null for a single value."""
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
    """Radius, in pixels, of the disc that holds half of the measured receptive field of what the
    head sees, at the middle of a scene of ``rows``.

    The network is untrained; the statistics of its norms are those of a batch of scenes, so that
    the branches are as strong as in its first iteration.
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
