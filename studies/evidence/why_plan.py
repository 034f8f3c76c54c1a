"""The plan of the "why" study: its runs as data, and where a store has what a run has left."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lambda_det.configs import load_config
from lambda_det.errors import InputError
from lambda_det.records import read_text
from studies.evidence.networks import NETWORKS
from studies.evidence.scenes import Layout

_HERE = Path(__file__).resolve().parent
STORE = _HERE / "runs" / "why"
CONFIG = _HERE / "row_mates_detector.yaml"

IMAGES = 8  # of an iteration
VALIDATION = 512  # scenes, the same for all runs of a set and layout
EVERY = 25  # iterations from one point of a curve to the next
_ITERATIONS = {"rows": 250, "sides": 400, "offsets": 400, "matches": 400}


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        part: of the study.
        set: of scenes.
        layout: of the scenes.
        network: one of :data:`studies.evidence.networks.NETWORKS`.
        seed: of the weights and of the training scenes.
        iterations: to train for.
        images: of an iteration.
        validation: scenes that measure the trained network.
    """

    part: str
    set: str
    layout: Layout
    network: str
    seed: int
    iterations: int
    images: int = IMAGES
    validation: int = VALIDATION

    @property
    def path(self) -> str:
        """Of its JSON in a store, such as ``distance/rows_distance52/lambda_seed1.json``."""
        return os.path.join(
            self.part, scenes_name(self.set, self.layout), f"{self.network}_seed{self.seed}.json"
        )


def scenes_name(name: str, layout: Layout) -> str:
    """Of a set with what its layout has that others have not: ``rows``, ``rows_rows6_side160``."""
    usual = asdict(Layout())
    parts = [f"{key}{value}" for key, value in asdict(layout).items() if value != usual[key]]
    return "_".join([name, *parts])


@dataclass(frozen=True)
class Part:
    """Runs of every network on each of some kinds of scenes with every seed."""

    scenes: Sequence[tuple[str, Layout]]
    networks: Sequence[str]
    seeds: Sequence[int]


_DISTANCES = (28, 40, 52, 64, 76)  # pixels; all of them fit into an image of 128

PARTS = {
    "reach": Part([("rows", Layout())], [*NETWORKS], (1, 2, 3)),
    "ask": Part(
        [("sides", Layout(distance=72)), ("offsets", Layout()), ("matches", Layout())],
        ["lambda", "frozen_layer", "depthwise", "resnet_50", "content", "resnet", "se"],
        (1, 2, 3),
    ),
    "distance": Part(
        [("rows", Layout(distance=pixels)) for pixels in _DISTANCES],
        ["lambda", "resnet"],
        (1, 2),
    ),
    # Of one size and one distance, so that nothing but the number of rows differs.
    "rows": Part(
        [("rows", Layout(rows, side=160, distance=90)) for rows in (2, 4, 6)],
        ["lambda", "resnet"],
        (1, 2),
    ),
}


def plan(
    parts: Iterable[str] = PARTS,
    only: Iterable[str] | None = None,
    seeds: Iterable[int] | None = None,
    iterations: int | None = None,
) -> list[Run]:
    """The runs in their order: everything with one seed, then with the next, so that a study that
    ends early has something of everything.

    Args:
        parts: of :data:`PARTS`.
        only: networks; None: all of a part.
        seeds: None: those of a part.
        iterations: None: those of the set.

    Raises:
        InputError: no run has such a part, network and seed, or iterations are below 1.
    """
    if iterations is not None and iterations < 1:
        raise InputError(f"--iterations {iterations}: at least 1 is needed")
    runs = [
        Run(part, name, layout, network, seed, iterations or _ITERATIONS[name])
        for part in PARTS
        if part in set(parts)
        for name, layout in PARTS[part].scenes
        for network in PARTS[part].networks
        if only is None or network in only
        for seed in PARTS[part].seeds
        if seeds is None or seed in seeds
    ]
    if not runs:
        raise InputError("--part, --only and --seeds: no run of the plan has all of these")
    return sorted(runs, key=lambda run: run.seed)


@functools.cache
def _base_lr() -> float:
    return load_config(str(CONFIG)).SOLVER.BASE_LR


def stored(run: Run, store: str) -> dict | None:
    """What a run has left in the store; None: nothing yet.

    Raises:
        InputError: it has one of other settings under this name.
    """
    path = os.path.join(store, run.path)
    if not os.path.exists(path):
        return None
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is no JSON ({error})") from error
    wanted = asdict(run) | {"base_lr": _base_lr()}
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"{path}: is of a run with {name} {found.get(name)!r}, not {value!r}; remove it or "
                "name another --store"
            )
    return found
