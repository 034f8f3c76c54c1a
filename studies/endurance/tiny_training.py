"""A training of a tiny Mask R-CNN in a process, for endurance tests on a CPU."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from lambda_det.comparison.processes import PROJECT, environment_of, tied
from lambda_det.data import generate_shapes, generate_shapes_folder
from lambda_det.layers.autotune import VARIABLE
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


PRETRAIN_CONFIG = os.path.join(PROJECT, "configs", "pretrain", "lambda_R_50_shapes_cpu.yaml")


PERIOD = 3  # iterations from one checkpoint of a training that is killed to the next
PER_EPOCH = 10  # iterations of an epoch of the pretraining


def _detection(folder: str, data: str, iterations: int, workers: int) -> list[str]:
    keys = (
        f"{TINY} DATASETS.TEST () SOLVER.CHECKPOINT_PERIOD {PERIOD} SOLVER.CHECKPOINT_KEEP 3 "
        f"SOLVER.MAX_ITER {iterations} DATALOADER.NUM_WORKERS {workers}"
    )
    where = ["DATASETS.COCO_FOLDER", data, "OUTPUT_DIR", folder]
    return ["--config-file", CONFIG, *keys.split(), *where]


def _lazy(folder: str, data: str, iterations: int, workers: int) -> list[str]:
    keys = (
        f"train.max_iter={iterations} dataloader.train.num_workers={workers} train.seed=1 "
        f"train.checkpointer.period={PERIOD} train.checkpointer.max_to_keep=3 "
        "dataloader.evaluator=null dataloader.train.total_batch_size=2 "
        "dataloader.train.mapper.augmentations.augmentations.0.short_edge_length=64"
    )
    where = [f"train.coco_folder={data}", f"train.output_dir={folder}"]
    return ["--config-file", CONFIG.replace(".yaml", ".py"), *keys.split(), *where]


def _pretrain(folder: str, data: str, iterations: int, workers: int) -> list[str]:
    keys = (
        f"PRETRAIN.EPOCHS {iterations // PER_EPOCH} PRETRAIN.EVAL_PERIOD 1000 "
        f"PRETRAIN.CHECKPOINT_PERIOD {PERIOD} PRETRAIN.BATCH_SIZE 2 PRETRAIN.IMAGE_SIZE 32 "
        f"PRETRAIN.MIXUP 0.4 DATALOADER.NUM_WORKERS {workers} MODEL.LAMBDA_RESNET.DEPTH 26"
    )
    where = ["--data", f"{data}_folder", "--config-file", PRETRAIN_CONFIG]
    return [*where, *keys.split(), "OUTPUT_DIR", folder]


TRAININGS = {"detection": _detection, "lazy": _lazy, "pretrain": _pretrain}
"""Kind of a training -> a function of its folder, data, iterations and loader processes, which
returns its arguments."""


def make_dataset(folder: str, *, num_val: int = 1) -> None:
    """Generate a dataset of 12 training images."""
    generate_shapes(folder, num_train=12, num_val=num_val, seed=0)


def make_image_folder(folder: str) -> None:
    """Generate an ImageFolder of 20 training images."""
    generate_shapes_folder(folder, num_train=20, num_val=10, seed=0)


def start_training(command: Sequence[str], log: str) -> subprocess.Popen:
    """Start a command that ends with this process; its output is appended to ``log``.

    Its bits do not depend on how fast a back end of the lambda layer is.
    """
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.Popen(
            tied(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=environment_of(1, None) | {VARIABLE: "0"},
        )  # fmt: skip


def record_of(
    tool: str,
    arguments: Sequence[str],
    output: str,
    rows: Sequence[Mapping],
    *,
    name: str,
    seed: int,
) -> dict:
    """Make the record of a tool's rows. Its command names ``output/NAME`` in place of ``output``.

    Args:
        tool: name of the tool without ``.py``.
        arguments: its command-line arguments.
        output: the folder that the arguments name.
        rows: the measured values.
        name: name of the record.
        seed: seed of the run.
    """
    shown = [f"output/{name}" if each == output else each for each in arguments]
    return make_record(tool_command(tool, shown), rows, seeds=[seed], with_gpu=False)
