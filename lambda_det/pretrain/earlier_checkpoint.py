"""Checkpoints of pretraining that lambda_det wrote before it had one engine."""

from __future__ import annotations

import logging
import os

from lambda_det.checkpoint.reading import read_file
from lambda_det.engine.checkpointing import POINTER
from lambda_det.engine.run_state import RunState
from lambda_det.errors import InputError
from lambda_det.io import save_atomically, write_bytes

FILE = "checkpoint.pth"

logger = logging.getLogger(__name__)


def convert_checkpoint(folder: str, seed: int) -> None:
    """Write a checkpoint of the engine from ``checkpoint.pth``, if the folder has no newer one.

    Args:
        folder: OUTPUT_DIR of the run.
        seed: seed of the run.

    Raises:
        InputError: the file cannot be read, or is no checkpoint of a pretraining.
    """
    path, pointer = os.path.join(folder, FILE), os.path.join(folder, POINTER)
    if os.path.exists(pointer) or not os.path.exists(path):
        return
    try:
        content = read_file(path)
        old, metadata = content["training"], content["metadata"]
        done = old["iteration"]
        run_state = {
            "seed": seed,
            "images": old["images"],
            "processes": old.get("processes", 1),
            "config": metadata["config"],
            "running_means": [{}],
            "metrics": {},
        }
        hooks = {RunState.__name__: run_state, "LRScheduler": {"last_epoch": done}}
        if old["ema"] is not None:
            hooks["WeightAverage"] = {"average": old["ema"]}
        trainer = {"iteration": done - 1, "optimizer": old["optimizer"], "hooks": hooks}
        new = {
            "model": old["model"],
            "trainer": trainer,
            "iteration": done - 1,
            "metadata": {"classes": metadata["classes"]},
        }
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"--resume: {path} is not a checkpoint of a pretraining ({type(error).__name__}); "
            "remove it to start from iteration 0"
        ) from error
    name = f"model_{done - 1:07d}.pth"
    save_atomically(new, os.path.join(folder, name))
    write_bytes(name.encode(), pointer)
    logger.info("wrote %s from %s of an earlier version", name, path)
