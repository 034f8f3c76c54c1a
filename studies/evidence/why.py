"""Why a lambda layer: what networks learn of objects whose kind stands elsewhere in the image.

The boxes are given (:mod:`studies.evidence.true_boxes`), so that nothing but features is learned.
A plan of runs, each of which leaves one small JSON; a run that is there is not run again::

    python -m studies.evidence.why [--part reach ...] [--only lambda ...] [--seeds 1 ...] [--jobs 2]
    python -m studies.evidence.why --record
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from lambda_det.backbone.residual_branches import mean_last_norms
from lambda_det.engine.setup import load_config
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.randomness import seed_everything
from lambda_det.records import make_record, read_text, write_json
from studies.evidence.networks import (
    NETWORKS,
    build_network,
    moved,
    multiply_adds,
    parameters,
    windows,
)
from studies.evidence.scenes import Layout, draw_scene
from studies.evidence.true_boxes import Batch, TrueBoxes, train

HERE = Path(__file__).resolve().parent
STORE = HERE / "runs" / "why"
CONFIG = HERE / "row_mates_detector.yaml"

IMAGES = 16  # of an iteration
VALIDATION = 512  # scenes, the same for all runs of a set and layout
EVERY = 25  # iterations from one point of a curve to the next
_ITERATIONS = {"rows": 250, "sides": 400, "offsets": 400, "matches": 400}
_TRAINING, _VALIDATION = 1, 2  # second numbers of the keys of two streams of scenes


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
        """Of its JSON in a store, such as ``distance/rows_distance48/lambda_seed1.json``."""
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


PARTS = {
    "reach": Part([("rows", Layout())], [*NETWORKS], (1, 2, 3)),
    "ask": Part(
        [("sides", Layout(distance=72)), ("offsets", Layout()), ("matches", Layout())],
        ["lambda", "frozen_layer", "depthwise", "resnet_50", "content", "resnet", "se"],
        (1, 2, 3),
    ),
    "distance": Part(
        [("rows", Layout(distance=pixels)) for pixels in (32, 48, 64, 80, 96)],
        ["lambda", "resnet", "se"],
        (1, 2),
    ),
    # A row takes 24 pixels at least, and a side is a multiple of 32.
    "rows": Part(
        [("rows", Layout(rows=2)), ("rows", Layout(6, 160)), ("rows", Layout(8, 192))],
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


def do(run: Run) -> dict:
    """Train and measure: what the JSON of the run holds but for where and when."""
    torch.set_num_threads(1)
    cfg = load_config(str(CONFIG))
    seed_everything(run.seed)
    net = build_network(run.network)
    before = windows(net)
    stream = np.random.default_rng((run.seed, _TRAINING))
    curve = train(net, _batches(run, stream, cfg, run.images), cfg, run.iterations)
    after = windows(net)
    accuracy, (height, width) = _measure(net, run, cfg)
    return {
        **asdict(run),
        "base_lr": cfg.SOLVER.BASE_LR,
        "kind_accuracy_percent": round(accuracy, 3),
        "curve": [
            round(100 * float(np.mean(curve.right[start : start + EVERY])), 2)
            for start in range(0, run.iterations, EVERY)
        ],
        "train_cpu_s": round(curve.cpu_s, 1),
        "parameters": parameters(net),
        "multiply_adds": multiply_adds(net, height, width),
        "last_norm": {s: round(v, 4) for s, v in mean_last_norms(net.fpn.bottom_up).items()},
        "moved": {name: round(moved(before[name], after[name]), 5) for name in before},
    }


def _batches(run: Run, stream: np.random.Generator, cfg: CfgNode, images: int) -> Iterator[Batch]:
    """Every scene is new."""
    while True:
        scenes = [draw_scene(stream, run.set, run.layout) for _ in range(images)]
        yield (
            normalised(np.stack([scene.image for scene in scenes]), cfg),
            [torch.as_tensor(scene.boxes, dtype=torch.float32) for scene in scenes],
            torch.as_tensor(np.concatenate([scene.kinds for scene in scenes])),
        )


def normalised(images: np.ndarray, cfg: CfgNode) -> Tensor:
    """BGR (N, H, W, 3) uint8 -> (N, 3, H, W) float as a detector with this config takes them."""
    if cfg.INPUT.FORMAT == "RGB":
        images = images[..., ::-1]
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return (pixels.float() - mean) / std


@torch.no_grad()
def _measure(net: TrueBoxes, run: Run, cfg: CfgNode) -> tuple[float, tuple[int, int]]:
    """Right kinds in percent of scenes that no training shows, and height and width of these."""
    net.eval()
    images = min(IMAGES, run.validation)
    right = count = 0
    batches = _batches(run, np.random.default_rng((0, _VALIDATION)), cfg, images)
    for _, (pixels, boxes, kinds) in zip(range(run.validation // images), batches, strict=False):
        right += int((net(pixels, boxes).argmax(1) == kinds).sum())
        count += len(kinds)
    return 100 * right / count, tuple(pixels.shape[-2:])


@functools.cache
def _base_lr() -> float:
    return load_config(str(CONFIG)).SOLVER.BASE_LR


def is_there(run: Run, store: str) -> bool:
    """Whether the store has this run.

    Raises:
        InputError: it has one of other settings under this name.
    """
    path = os.path.join(store, run.path)
    if not os.path.exists(path):
        return False
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
    return True


def do_all(runs: Sequence[Run], store: str, jobs: int = 1) -> None:
    """Do the runs that the store has not, and write each as soon as it is done.

    Runs are trained by ``jobs`` processes of one thread; only this one writes, so that nothing is
    half-written when they are stopped.

    Raises:
        InputError: a run is there with other settings; a number is out of range.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
    missing = [run for run in runs if not is_there(run, store)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them are there", flush=True)
    if jobs == 1:
        _write_all(missing, map(do, missing), store)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # read by a process at its start
    with multiprocessing.get_context("spawn").Pool(jobs, _leave_signals_to_parent) as pool:
        _write_all(missing, pool.imap_unordered(do, missing, chunksize=1), store)


def _leave_signals_to_parent() -> None:
    """Of the terminal: it ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_all(runs: Sequence[Run], results: Iterable[dict], store: str) -> None:
    for number, result in enumerate(results, start=1):
        layout = Layout(**result["layout"])
        run = Run(**{key: result[key] for key in asdict(runs[0])} | {"layout": layout})
        facts = make_record(_command(run), [], [run.seed], with_gpu=False)
        for name in ("rows", "seeds"):  # there is one of each, with its own name
            del facts[name]
        path = os.path.join(store, run.path)
        with writing(path):
            write_json(facts | result, path)
        print(
            f"{number} of {len(runs)}: {run.path} {result['kind_accuracy_percent']:.1f} %, "
            f"{result['train_cpu_s']:.0f} s",
            flush=True,
        )


def _command(run: Run) -> str:
    return (
        f"python -m studies.evidence.why --part {run.part} --only {run.network} --seeds {run.seed}"
    )


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=[*PARTS], help="of the study")
    add("--only", nargs="+", choices=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
    add("--seeds", nargs="+", type=int, metavar="N")
    add("--jobs", type=int, default=1, metavar="N", help="processes of one thread")
    add("--store", default=str(STORE), metavar="DIR", help="of the runs' JSON")
    add("--iterations", type=int, metavar="N", help="of a trial, into a --store of its own")
    add("--plan", action="store_true", help="list the runs and stop")
    args = parser.parse_args(argv)
    if args.iterations is not None and Path(args.store).resolve() == STORE:
        raise InputError("--iterations: is for a trial; name a --store of its own")
    runs = plan(args.part, args.only, args.seeds, args.iterations)
    if args.plan:
        for run in runs:
            print(f"{run.path}  {'there' if is_there(run, args.store) else ''}".rstrip())
        return 0
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        do_all(runs, args.store, args.jobs)
    except KeyboardInterrupt:
        print("stopped: the runs that are done are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
