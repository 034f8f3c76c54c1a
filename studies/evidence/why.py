"""The "why" study: which networks learn the kind of objects that is shown elsewhere in the image.

The boxes are given (:mod:`studies.evidence.true_boxes`), so that only features are learned. The
study is a plan of runs. Each run writes one small JSON file; a run whose file exists is skipped::

    python -m studies.evidence.why [--part reach ...] [--only lambda ...] [--seeds 1 ...] [--jobs 2]
    python -m studies.evidence.why --record
"""

from __future__ import annotations

import argparse
import itertools
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode

from lambda_det.backbone.residual_branches import mean_last_norms
from lambda_det.configs import load_config
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import write_bytes, write_json
from lambda_det.randomness import seed_everything
from lambda_det.records import make_record, record_path
from studies.evidence.networks import (
    NETWORKS,
    build_network,
    moved,
    multiply_adds,
    parameters,
    windows,
)
from studies.evidence.scenes import Layout, draw_scene
from studies.evidence.true_boxes import Batch, TrueBoxes, normalised, train
from studies.evidence.why_plan import CONFIG, EVERY, IMAGES, PARTS, STORE, Run, plan, stored

PROJECT = Path(__file__).resolve().parents[2]
RECORD = "row_mates_why"
"""Name of the record in ``results/``."""

BFLOAT16 = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"]
"""Config keys that the study adds: it takes less than half the time of float32."""

_TRAINING, _VALIDATION = 1, 2  # second part of the seeds of two streams of scenes


def do(run: Run) -> dict:
    """Train and evaluate a run; return the results for its JSON file."""
    torch.set_num_threads(1)
    cfg = load_config(str(CONFIG), BFLOAT16)
    seed_everything(run.seed)
    net = build_network(run.network)
    before = windows(net)
    stream = np.random.default_rng((run.seed, _TRAINING))
    curve = train(net, _batches(run, stream, cfg), cfg, run.iterations)
    after = windows(net)
    accuracy, (height, width) = _measure(net, run, cfg)
    return {
        **asdict(run),
        "base_lr": cfg.SOLVER.BASE_LR,
        "precision": cfg.SOLVER.AMP.PRECISION,
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


def _batches(run: Run, stream: np.random.Generator, cfg: CfgNode) -> Iterator[Batch]:
    """Yield endless batches of new scenes, the first of them of the set ``rows``."""
    for number in itertools.count():
        name = "rows" if number < run.rows_first else run.set
        scenes = [draw_scene(stream, name, run.layout) for _ in range(run.images)]
        yield (
            normalised(np.stack([scene.image for scene in scenes]), cfg).to(
                memory_format=torch.channels_last
            ),
            [torch.as_tensor(scene.boxes, dtype=torch.float32) for scene in scenes],
            torch.as_tensor(np.concatenate([scene.kinds for scene in scenes])),
        )


@torch.no_grad()
@torch.autocast("cpu", torch.bfloat16)
def _measure(net: TrueBoxes, run: Run, cfg: CfgNode) -> tuple[float, tuple[int, int]]:
    """Percentage of correct kinds on validation scenes, and (height, width) of these scenes."""
    net.eval()
    shown = replace(run, rows_first=0, images=min(IMAGES, run.validation))
    right = count = 0
    batches = _batches(shown, np.random.default_rng((0, _VALIDATION)), cfg)
    numbers = range(run.validation // shown.images)
    for _, (pixels, boxes, kinds) in zip(numbers, batches, strict=False):
        right += int((net(pixels, boxes).argmax(1) == kinds).sum())
        count += len(kinds)
    return 100 * right / count, tuple(pixels.shape[-2:])


def do_all(runs: Sequence[Run], store: str, jobs: int = 1) -> None:
    """Train all runs that the store does not have, and write the result of each at once.

    ``jobs`` processes with one thread each train the runs. Only this process writes, so that no
    file is incomplete if they are stopped.

    Raises:
        InputError: the store has a run with other settings, or ``jobs`` is out of range.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least 1 is needed")
    missing = [run for run in runs if stored(run, store) is None]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them are done already", flush=True)
    if jobs == 1:
        _write_all(missing, map(do, missing), store)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # the new processes read it
    with multiprocessing.get_context("spawn").Pool(jobs, _leave_signals_to_parent) as pool:
        _write_all(missing, pool.imap_unordered(do, missing, chunksize=1), store)


def _leave_signals_to_parent() -> None:
    """Ignore a terminal's Ctrl-C in a worker; the parent process ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_all(runs: Sequence[Run], results: Iterable[dict], store: str) -> None:
    for number, result in enumerate(results, start=1):
        settings = {field.name: result[field.name] for field in fields(Run)}
        run = Run(**settings | {"layout": Layout(**result["layout"])})
        facts = make_record(_command(run), [], [run.seed], with_gpu=False)
        for name in ("rows", "seeds"):  # replaced by the run's own keys
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
    add("--part", nargs="+", choices=PARTS, default=[*PARTS], help="parts of the study (all)")
    add("--only", nargs="+", choices=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
    add("--seeds", nargs="+", type=int, metavar="N", help="only these seeds")
    add("--jobs", type=int, default=1, metavar="N", help="number of processes (1)")
    add("--store", default=str(STORE), metavar="DIR", help="folder of the runs' JSON files")
    add("--iterations", type=int, metavar="N", help="for a trial, with another --store")
    add("--plan", action="store_true", help="list the runs and stop")
    add("--record", action="store_true", help=f"write results/{RECORD}.json and its figure")
    args = parser.parse_args(argv)
    if args.iterations is not None and Path(args.store).resolve() == STORE.resolve():
        raise InputError("--iterations: is for a trial; name another --store")
    runs = plan(args.part, args.only, args.seeds, args.iterations)
    if args.plan:
        for run in runs:
            print(f"{run.path}  {'done' if stored(run, args.store) else ''}".rstrip())
        return 0
    if args.record:
        # matplotlib is slow to import and only needed here.
        from studies.evidence.why_figure import draw_evidence
        from studies.evidence.why_report import collect, record_of

        runs = plan()
        found = collect(runs, args.store)
        figure = str(PROJECT / "docs" / "evidence.png")
        with writing(figure):
            write_bytes(draw_evidence(found), figure)
        path = record_path(str(PROJECT / "results"), RECORD)
        with writing(path):
            write_json(record_of(found, len(runs)), path)
        print(f"{path}: {len(found)} of {len(runs)} runs, {len(runs) - len(found)} are missing")
        return 0
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        do_all(runs, args.store, args.jobs)
    except KeyboardInterrupt:
        print("stopped; the finished runs are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
