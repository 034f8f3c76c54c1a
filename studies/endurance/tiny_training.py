"""A training of a tiny Mask R-CNN in a process, for endurance tests on a CPU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from lambda_det.comparison.processes import PROJECT, environment_of, tied
from lambda_det.data import generate_shapes
from lambda_det.records import make_record, tool_command

CONFIG = os.path.join(
    PROJECT, "configs", "quick", "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
)  # fmt: skip

TINY = (
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MAX_SIZE_TRAIN 64 SOLVER.IMS_PER_BATCH 2 SEED 1 "
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 32 "
    "MODEL.ROI_BOX_HEAD.NUM_CONV 1 MODEL.ROI_MASK_HEAD.CONV_DIM 32 MODEL.ROI_MASK_HEAD.NUM_CONV 1"
)
"""Overrides of :data:`CONFIG` for small images, FPN and heads; the backbone is not changed."""


def make_dataset(folder: str, *, num_val: int = 1) -> None:
    """Generate a dataset of 12 training images."""
    generate_shapes(folder, num_train=12, num_val=num_val, seed=0)


def start_training(command: Sequence[str], log: str) -> subprocess.Popen:
    """Start a command that ends with this process; its output is appended to ``log``."""
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.Popen(
            tied(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=environment_of(1, None),
        )  # fmt: skip


def record_of(
    tool: str, arguments: Sequence[str], output: str, row: Mapping, *, name: str, seed: int
) -> dict:
    """Make the record of a tool's row. Its command names ``output/NAME`` in place of ``output``.

    Args:
        tool: name of the tool without ``.py``.
        arguments: its command-line arguments.
        output: the folder that the arguments name.
        row: the measured values.
        name: name of the record.
        seed: seed of the run.
    """
    shown = [f"output/{name}" if each == output else each for each in arguments]
    return make_record(tool_command(tool, shown), [row], seeds=[seed], with_gpu=False)
