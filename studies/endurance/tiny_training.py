"""A training of a tiny Mask R-CNN as a process, for tests of endurance on a CPU."""

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
"""Overrides of :data:`CONFIG`: small pictures, FPN and heads; the backbone is the full one."""


def make_pictures(folder: str, *, num_val: int = 1) -> None:
    """Generate the dataset: 12 pictures to train on."""
    generate_shapes(folder, num_train=12, num_val=num_val, seed=0)


def start_training(command: Sequence[str], log: str) -> subprocess.Popen:
    """Start a command that ends when this process does, its output behind what ``log`` holds."""
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.Popen(
            tied(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=environment_of(1, None),
        )  # fmt: skip


def record_of(
    tool: str, words: Sequence[str], output: str, row: Mapping, *, name: str, seed: int
) -> dict:
    """The record of a tool's row; its command has a folder of the project for ``output``.

    Args:
        tool: without ``.py``.
        words: of its command line.
        output: folder that these name.
        row: what was measured.
        name: of the record, and of the folder in ``output/``.
        seed: of the run.
    """
    shown = [f"output/{name}" if word == output else word for word in words]
    return make_record(tool_command(tool, shown), [row], seeds=[seed], with_gpu=False)
