"""What a suite would cost, and what to launch, before it is run."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence

from lambda_det.errors import InputError, writing
from lambda_det.experiments.processes import PROJECT, environment_of, last_line, tied
from lambda_det.experiments.run_facts import train_ms, train_size
from lambda_det.experiments.run_files import FINISHED, finished_facts, open_to_write, state_of
from lambda_det.experiments.running import Command, train_command
from lambda_det.experiments.suite import Run, Suite
from lambda_det.records import make_record, read_text, write_json

logger = logging.getLogger(__name__)

THROUGHPUT_FILE = "throughput.json"
LEAST_ITERATIONS = 40
"""To be timed: detectron2 logs every 20 iterations, and the first ones are slow."""


def plan_text(suite: Suite, output: str, runs: Sequence[Run], launch: Callable[[Run], str]) -> str:
    """For every run its state, the command that runs it and the hours it takes; then the sum.

    Args:
        suite: of :func:`~lambda_det.experiments.suite.read_suite`.
        output: folder of the comparison.
        runs: those to plan.
        launch: run -> command line.

    Raises:
        InputError: the record of times that the suite names cannot be read.
    """
    known = _known_times(suite, output)
    lines, total, left, unknown = [], 0.0, 0, 0
    for run in runs:
        cfg = suite.configs[run.set, run.model]
        images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
        name = f"{run.name} ({suite.labels[run.model]})"
        state = state_of(run)
        if state == FINISHED:
            lines.append(f"{name}, {state}")
            continue
        left += 1
        lines.append(
            f"{name}, {state}: {cfg.SOLVER.MAX_ITER} iterations of "
            f"{cfg.SOLVER.IMS_PER_BATCH} images ({train_size(cfg)}) on {run.gpus} GPU(s)"
        )
        time = known.get(_key(cfg))
        if time is None:
            unknown += 1
            lines.append("  time unknown")
        else:
            hours = images * time.ms_per_image * time.gpus / 3.6e6
            total += hours
            lines.append(
                f"  {hours:.3g} {time.unit}: {time.ms_per_image:.1f} ms per image on "
                f"{time.gpus} x {time.device} ({time.source})"
            )
        lines += [f"  {launch(run)}", f"  # trains: {_training(run)}"]
    estimates = {time.unit for time in known.values()}
    if left > unknown:
        lines.append(
            f"together {total:.3g} {' and '.join(sorted(estimates))}"
            + (f" and {unknown} runs of unknown time" if unknown else "")
            + "; without evaluation, and as if several GPUs lost nothing by waiting for each other"
        )
    if unknown:
        lines.append(
            f"time unknown: --measure {LEAST_ITERATIONS} times so many iterations of each model "
            "on the device at hand (add KEY VALUE pairs for other data), or name a record of "
            "measured times under 'throughput' in the suite"
        )
    return "\n".join(lines)


def measure(
    suite: Suite,
    output: str,
    runs: Sequence[Run],
    iterations: int,
    *,
    command: Command = train_command,
) -> dict[str, object]:
    """Train each model of ``runs`` for a few iterations on one device, with as many images as one
    GPU would get of a batch; write ``throughput.json``, a record whose rows have
    ``train_ms_per_image``.

    Raises:
        InputError: too few iterations, a training fails, or the record cannot be written.
    """
    if iterations < LEAST_ITERATIONS:
        raise InputError(f"--measure {iterations}: at least {LEAST_ITERATIONS} are needed")
    rows: dict[tuple, dict] = {}
    for run in runs:
        cfg = suite.configs[run.set, run.model]
        if (key := _key(cfg)) in rows:
            continue
        batch = max(1, cfg.SOLVER.IMS_PER_BATCH // run.gpus)
        folder = os.path.join(os.path.abspath(output), "measured", run.model)
        words = ("SOLVER.MAX_ITER", str(iterations), "SOLVER.IMS_PER_BATCH", str(batch),
                 "DATASETS.TEST", "()")  # fmt: skip
        one = dataclasses.replace(
            run, overrides=run.overrides + words, folder=folder, gpus=1, resume=False
        )
        with writing(folder):
            os.makedirs(folder, exist_ok=True)
        log_path = os.path.join(folder, "output.log")
        logger.info("%s: %d iterations of %d images (%s)", run.model, iterations, batch, log_path)
        with open_to_write(log_path) as log:
            status = subprocess.run(
                tied(command(one)), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, env=environment_of(1, None),
            ).returncode  # fmt: skip
        milliseconds = None if status else train_ms(folder)
        if milliseconds is None:
            raise InputError(f"--measure: {run.model}: {last_line(log_path)} ({log_path})")
        rows[key] = {
            "label": suite.labels[run.model],
            **dict(zip(("variant", "depth", "train_size"), key, strict=True)),
            "images_per_iteration": batch,
            "gpus": 1,
            "train_ms_per_image": round(milliseconds, 2),
        }
    record = make_record(f"python tools/compare.py --measure {iterations}", list(rows.values()))
    path = os.path.join(output, THROUGHPUT_FILE)
    with writing(path):
        write_json(record, path)
    return record


@dataclasses.dataclass(frozen=True)
class _Time:
    ms_per_image: float
    gpus: int
    device: str
    unit: str
    source: str


def _known_times(suite: Suite, output: str) -> dict[tuple, _Time]:
    """By model and image size; what was measured here counts more than what the suite names."""
    times: dict[tuple, _Time] = {}
    measured = os.path.join(output, THROUGHPUT_FILE)
    for path in (suite.throughput, measured if os.path.isfile(measured) else ""):
        if not path:
            continue
        record = _record(path)
        jobs = max((run.get("jobs", 1) for run in record.get("runs", [])), default=1)
        shared = f", {jobs} runs sharing the machine" if jobs > 1 else ""
        for row in record["rows"]:
            found = row.get("train_ms_per_image")
            if isinstance(found, Mapping):
                found = found["mean"]
            if found is not None:
                key = (row["variant"], row["depth"], row["train_size"])
                times[key] = _time(found, row["gpus"], record["hardware"], path + shared)
    for run in suite.runs:
        if state_of(run) == FINISHED and (found := train_ms(run.folder)) is not None:
            facts = finished_facts(run)
            key = _key(suite.configs[run.set, run.model])
            hardware = facts["record"]["hardware"]
            times[key] = _time(found, facts["gpus"], hardware, f"measured, {run.name}")
    return times


def _time(ms_per_image: float, gpus: int, hardware: Mapping, source: str) -> _Time:
    device = hardware["gpu"] or f"{hardware['cpu']} with {hardware['cores']} cores"
    unit = "GPU-hours" if hardware["gpu"] else "hours"
    return _Time(ms_per_image, gpus, device, unit, source)


def _key(cfg) -> tuple[str, int, str]:
    node = cfg.MODEL.LAMBDA_RESNET
    return node.VARIANT, node.DEPTH, train_size(cfg)


def _record(path: str) -> dict:
    try:
        record = json.loads(read_text(path))
        for row in record["rows"]:
            _ = [row[key] for key in ("variant", "depth", "train_size", "gpus")]
        _ = record["hardware"]["gpu"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"throughput {path}: is no record of a comparison ({type(error).__name__}: {error})"
        ) from error
    return record


def _training(run: Run) -> str:
    words = [word.replace(PROJECT + os.sep, "") for word in run.words]
    return shlex.join(["python", "tools/train_net.py", *words])
