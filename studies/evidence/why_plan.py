"""The plan of the "why" study: its runs as data, and the files of their results."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lambda_det.configs import load_config
from lambda_det.errors import InputError
from lambda_det.io import read_json
from studies.evidence.networks import NETWORKS
from studies.evidence.scenes import Layout

_HERE = Path(__file__).resolve().parent
STORE = _HERE / "runs" / "why"
CONFIG = _HERE / "row_mates_detector.yaml"

IMAGES = 8  # scenes in a batch
VALIDATION = 512  # validation scenes, the same for all runs of a set and layout
EVERY = 25  # iterations between two points of a curve
_ITERATIONS = {"rows": 250, "sides": 400, "offsets": 400, "matches": 600}
_ROWS_FIRST = {"offsets": 150, "matches": 150}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        part: key of :data:`PARTS`.
        set: set of scenes, a key of :data:`studies.evidence.scenes.SETS`.
        layout: layout of the scenes.
        network: key of :data:`studies.evidence.networks.NETWORKS`.
        seed: seed of the weights and of the training scenes.
        iterations: number of iterations.
        rows_first: number of the first iterations whose scenes are of the set ``rows``. Who learns
            the markers of one row first may go on to learn which row counts; all at once, no
            network learned anything.
        images: number of scenes in a batch.
        validation: number of scenes on which the trained network is evaluated.
    """

    part: str
    set: str
    layout: Layout
    network: str
    seed: int
    iterations: int
    rows_first: int = 0
    images: int = IMAGES
    validation: int = VALIDATION

    @property
    def path(self) -> str:
        """Path of the result in a store, such as ``distance/rows_distance52/lambda_seed1.json``."""
        return os.path.join(
            self.part, scenes_name(self.set, self.layout), f"{self.network}_seed{self.seed}.json"
        )


def scenes_name(name: str, layout: Layout) -> str:
    """Name of a set plus what differs from the default layout: ``rows``, ``rows_rows6_side160``."""
    usual = asdict(Layout())
    parts = [f"{key}{value}" for key, value in asdict(layout).items() if value != usual[key]]
    return "_".join([name, *parts])


@dataclass(frozen=True)
class Part:
    """A part of the study: the runs of each network, on each kind of scenes, with each seed.

    Attributes:
        scenes: names of sets of scenes, with their layouts.
        seeds: network -> its seeds.
    """

    scenes: Sequence[tuple[str, Layout]]
    seeds: Mapping[str, Sequence[int]]


_DISTANCES = (28, 40, 52, 64, 76)  # in pixels; all fit into an image 128 pixels wide

PARTS = {
    "reach": Part([("rows", Layout())], dict.fromkeys(NETWORKS, (1, 2, 3))),
    "ask": Part(
        [
            ("sides", Layout(distance=72)),
            ("offsets", Layout(distance=40)),
            ("matches", Layout(distance=40)),
        ],
        dict.fromkeys(("lambda", "frozen_layer", "depthwise"), (1, 2, 3))
        | dict.fromkeys(("content", "resnet", "resnet_50"), (1, 2)),
    ),
    "distance": Part(
        [("rows", Layout(distance=pixels)) for pixels in _DISTANCES],
        dict.fromkeys(("lambda", "resnet"), (1, 2)),
    ),
    # The same size and distance, so that only the number of rows differs.
    "rows": Part(
        [("rows", Layout(rows, side=160, distance=90)) for rows in (2, 4, 6)],
        dict.fromkeys(("lambda", "resnet"), (1, 2)),
    ),
}


def plan(
    parts: Iterable[str] = PARTS,
    only: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    iterations: int | None = None,
) -> list[Run]:
    """List the runs: all with the first seed, then all with the next.

    A study that is stopped early then has results of every part.

    Args:
        parts: keys of :data:`PARTS`.
        only: names of networks; None takes all networks of a part.
        seeds: the seeds; None takes all seeds of a part.
        iterations: number of iterations; None takes that of the set.

    Raises:
        InputError: no run has such a part, network and seed, or ``iterations`` is below 1.
    """
    if iterations is not None and iterations < 1:
        raise InputError(f"--iterations {iterations}: at least 1 is needed")
    runs = [
        Run(
            part,
            name,
            layout,
            network,
            seed,
            iterations or _ITERATIONS[name],
            _ROWS_FIRST.get(name, 0),
        )
        for part in PARTS
        if part in set(parts)
        for name, layout in PARTS[part].scenes
        for network, own_seeds in PARTS[part].seeds.items()
        if only is None or network in only
        for seed in own_seeds
        if seeds is None or seed in seeds
    ]
    if not runs:
        raise InputError("--part, --only and --seeds: no run of the plan has all of these")
    return sorted(runs, key=lambda run: run.seed)


@functools.cache
def _base_lr() -> float:
    return load_config(str(CONFIG)).SOLVER.BASE_LR


def stored(run: Run, store: str) -> dict | None:
    """Read the result of a run from a store; None if there is none yet.

    Raises:
        InputError: the file is not valid JSON, or is of a run with other settings.
    """
    path = os.path.join(store, run.path)
    if not os.path.exists(path):
        return None
    found = read_json(path)
    wanted = asdict(run) | {"base_lr": _base_lr()}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: is of a run with {name} {found.get(name)!r}, not {value!r}; remove it or "
                "name another --store"
            )
    return found
