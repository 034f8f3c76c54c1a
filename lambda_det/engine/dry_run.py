"""``--dry-run`` of the commands that train: a short way through all that comes in a long run."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from dataclasses import replace

import torch
from detectron2.utils import comm

from lambda_det.engine.averaging import FINAL_AVERAGE
from lambda_det.engine.checkpointing import FINAL
from lambda_det.engine.parts import Parts, RunOptions
from lambda_det.engine.run import run
from lambda_det.errors import InputError, key, keys_named

ITERATIONS = 2
IMAGES = 4  # of each test set
_CHECKPOINTS = 2  # that the disk must have room for: one is written beside the one before

logger = logging.getLogger(__name__)


def add_dry_run(parser: ArgumentParser) -> ArgumentParser:
    """Add ``--dry-run`` to the parser of a command that trains, and return it."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help=f"run {ITERATIONS} iterations with the largest images, write a checkpoint and "
        f"evaluate {IMAGES} images of each test set, in a temporary folder, and stop",
    )
    return parser


def check_dry_run(args: Namespace) -> None:
    """Raise InputError if ``--dry-run`` stands beside ``--eval-only`` or ``--resume``."""
    for flag in ("eval_only", "resume"):
        if args.dry_run and getattr(args, flag):
            name = f"--{flag.replace('_', '-')}"
            raise InputError(f"--dry-run: is for a new training, and {name} is not one")


def dry_run(parts: Parts, options: RunOptions) -> None:
    """Train for two iterations and evaluate a few images in a temporary folder.

    Every process calls this function. Nothing is written to ``options.output_dir``.

    Args:
        parts: of the training, whose images have the largest size; ``evaluate``, if it is not None,
            takes ``most`` images and the ``folder`` for its files.
        options: of the training.

    Raises:
        InputError: as :func:`run`, or the disk of ``options.output_dir`` has no room for two
            checkpoints.
    """
    # The comments on a short training and on the AP of a few images say nothing here.
    for name in ("engine.branches", "evaluation.diagnosis"):
        logging.getLogger(f"lambda_det.{name}").disabled = True
    with tempfile.TemporaryDirectory(prefix="lambda_det_dry_run_") as own:
        folder = comm.all_gather(own)[0]
        if parts.evaluate is not None:
            few = functools.partial(parts.evaluate, most=IMAGES, folder=folder)
            parts = replace(parts, evaluate=few)
        batches = min(options.precise_bn, ITERATIONS)
        short = replace(
            options,
            output_dir=folder,
            max_iter=ITERATIONS,
            eval_period=0,
            precise_bn=batches,
            wandb="",
        )
        run(parts, short)
        names = (FINAL, FINAL_AVERAGE)
        paths = [path for name in names if os.path.exists(path := os.path.join(folder, name))]
        size = os.path.getsize(paths[0]) if paths else 0
        comm.synchronize()  # before the folder goes
    if not comm.is_main_process():
        return
    with keys_named(options.key_names or {}):
        _check_disk(options.output_dir, size)
    facts = [f"a checkpoint takes {size / 2**20:.0f} MiB"]
    if (device := next(parts.model.parameters()).device).type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        facts.append(f"process 0 has held {peak:.0f} MiB on its GPU at most")
    logger.info("the dry run went well: %s", ", ".join(facts))


def _check_disk(folder: str, size: int) -> None:
    name = f"{key('OUTPUT_DIR')}={folder!r}"
    there = os.path.abspath(folder)
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise InputError(f"{name}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"{name}: {there} cannot be written")
    free = shutil.disk_usage(there).free
    if free < _CHECKPOINTS * size:
        raise InputError(
            f"{name}: {free / 2**20:.0f} MiB are free on this disk; {_CHECKPOINTS} checkpoints of "
            f"{size / 2**20:.0f} MiB must fit"
        )
