"""Plans a suite before it is run: the command and the estimated hours of each run."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence

from detectron2.config import CfgNode

from lambda_det.comparison.controls import NAMED_STAGES
from lambda_det.comparison.preparing import prepare
from lambda_det.comparison.processes import PROJECT, last_line, run_to_end
from lambda_det.comparison.results import built_config, train_ms, zeroed_missing
from lambda_det.comparison.run import train_command
from lambda_det.comparison.run_files import FINISHED, state_of, write_facts
from lambda_det.comparison.speed import (
    SPEED_SETTINGS,
    THROUGHPUT_FILE,
    Key,
    device_name,
    hardware_of,
    images_per_gpu,
    known_times,
    speed_key,
    speed_settings,
    train_size,
)
from lambda_det.comparison.suite import Run, Suite
from lambda_det.errors import InputError, writing
from lambda_det.records import make_record, tool_command

logger = logging.getLogger(__name__)

LEAST_ITERATIONS = 40
"""Iterations that timing needs: detectron2 logs every 20 iterations, and the first ones are
slow."""


def plan_text(suite: Suite, output: str, runs: Sequence[Run], launch: Callable[[Run], str]) -> str:
    """Describe every run by its state, its command and its estimated hours; then sum up the hours
    of each device.

    A measured time is used for a run that has the same
    :func:`~lambda_det.comparison.speed.speed_settings` and as many images per iteration and GPU;
    the text names the machine it was measured on. A training without residual branches takes at
    most as long as the training with them, whose time is used if its own is unknown. ``launch``
    returns the command line of a run.

    Raises:
        InputError: the record of times that the suite names cannot be read.
    """
    known = known_times(suite, output)
    lines, unknown = [], 0
    totals: dict[str, float] = {}  # hours on different devices do not add up
    for run in runs:
        cfg, state = suite.config_of(run), state_of(run)
        name = f"{run.name} ({suite.labels[run.model]})"
        if state == FINISHED:
            lines.append(f"{name}, {state}")
            if missing := zeroed_missing(run):
                lines += [f"  with {NAMED_STAGES} zeroed: {missing}", f"  {launch(run)}"]
            continue
        lines.append(
            f"{name}, {state}: {cfg.SOLVER.MAX_ITER} iterations of "
            f"{cfg.SOLVER.IMS_PER_BATCH} images ({train_size(cfg)}) on {_devices(cfg, run.gpus)}"
        )
        own = known.get(speed_key(cfg, run.gpus))
        time = own or known.get(speed_key(suite.configs[run.set, run.model], run.gpus))
        if time is None:
            unknown += 1
            lines.append("  time unknown")
        else:
            images = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
            hours = images * time.ms_per_image * time.gpus / 3.6e6
            of_device = f"{time.unit} ({time.device})"
            totals[of_device] = totals.get(of_device, 0) + hours
            here = time.device == device_name(hardware_of(cfg))
            lines.append(
                f"  {'' if own else 'at most '}{_hours(hours)} {time.unit}: "
                f"{time.ms_per_image:.1f} ms per image on {time.gpus} x {time.device} "
                f"({time.source}{'' if here else '; not this machine'})"
            )
        lines.append(f"  {launch(run)}")
        lines += [f"  # pretrains first: {_relative(run.pretrain)}"] if run.pretrain else []
        lines.append(f"  # trains: {tool_command('train_net', map(_relative, run.arguments))}")
    if totals:
        pretrainings = " and pretrainings" if any(run.pretrain for run in runs) else ""
        lines.append(
            "together "
            + " and ".join(f"{_hours(hours)} {device}" for device, hours in totals.items())
            + (f" and {unknown} runs of unknown time" if unknown else "")
            + f"; without evaluations{pretrainings}, and as if several GPUs lost nothing by "
            "waiting for each other"
        )
    if unknown:
        lines.append(
            f"time unknown: --measure {LEAST_ITERATIONS} times so many iterations of each model "
            "on the device at hand (add KEY VALUE pairs for other data), or name a record of "
            "measured times under 'throughput' in the suite"
        )
    return "\n".join(lines)


def measure(suite: Suite, output: str, runs: Sequence[Run], iterations: int) -> dict[str, object]:
    """Train each model of ``runs`` for a few iterations on one device, with as many images as one
    GPU would get of a batch, and write the times to ``throughput.json``.

    Returns:
        The record that was written; its rows have ``train_ms_per_image``, in milliseconds.

    Raises:
        InputError: ``iterations`` is below :data:`LEAST_ITERATIONS`, a command of ``prepare`` or a
            training fails, or the record cannot be written.
    """
    if iterations < LEAST_ITERATIONS:
        raise InputError(f"--measure {iterations}: at least {LEAST_ITERATIONS} are needed")
    prepare(suite, output)
    rows: dict[Key, dict] = {}
    for run in runs:
        cfg = suite.config_of(run)
        key = speed_key(cfg, run.gpus)
        if key not in rows:
            batch = images_per_gpu(cfg.SOLVER.IMS_PER_BATCH, run.gpus)
            without = f" without {NAMED_STAGES}" if run.without else ""
            rows[key] = {
                "label": suite.labels[run.model] + without,
                "variant": cfg.MODEL.LAMBDA_RESNET.VARIANT,
                "depth": cfg.MODEL.LAMBDA_RESNET.DEPTH,
                "train_size": train_size(cfg),
                "images_per_iteration": batch,
                "gpus": 1,
                "hardware": hardware_of(cfg),
                SPEED_SETTINGS: speed_settings(cfg),
                "train_ms_per_image": round(_measured_ms(run, output, iterations, batch), 2),
            }
    line = tool_command("compare", ["--measure", str(iterations)])
    record = make_record(line, list(rows.values()))
    write_facts(record, output, THROUGHPUT_FILE)
    return record


def _measured_ms(run: Run, output: str, iterations: int, batch: int) -> float:
    """Train the model of a run for some iterations; return the milliseconds per image."""
    measured = "measured_without" if run.without else "measured"
    folder = os.path.join(os.path.abspath(output), measured, run.set, run.model)
    arguments = ["SOLVER.MAX_ITER", str(iterations), "SOLVER.IMS_PER_BATCH", str(batch),
                 "DATASETS.TEST", "()"]  # fmt: skip
    if run.pretrain:  # no pretraining runs for a timing, so its weights do not exist
        arguments += ["MODEL.WEIGHTS", ""]
    one = dataclasses.replace(
        run, overrides=(*run.overrides, *arguments), folder=folder, gpus=1, resume=False
    )
    with writing(folder):
        os.makedirs(folder, exist_ok=True)
    log_path = os.path.join(folder, "output.log")
    name = f"{run.model} without" if run.without else run.model
    logger.info("%s: %d iterations of %d images (%s)", name, iterations, batch, log_path)
    status = run_to_end(train_command(one), log_path, mode="w")
    milliseconds = None if status else train_ms(folder, built_config(folder))
    if milliseconds is None:
        raise InputError(f"--measure: {name}: {last_line(log_path)} ({log_path})")
    return milliseconds


def _devices(cfg: CfgNode, processes: int) -> str:
    if not cfg.MODEL.DEVICE.startswith("cpu"):
        return f"{processes} GPU(s)"
    return "the CPU" if processes == 1 else f"the CPU, {processes} processes"


def _hours(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _relative(text: str) -> str:
    return text.replace(PROJECT + os.sep, "")
