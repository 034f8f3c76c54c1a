"""Arguments, images and processes for the tests of pretraining."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CONFIG = "configs/pretrain/lambda_R_50_shapes_cpu.yaml"
TINY = (
    # Everything random is on: 2 epochs of 4 iterations of 2 images, one image left over.
    "PRETRAIN.IMAGE_SIZE 32 PRETRAIN.EPOCHS 2 PRETRAIN.BATCH_SIZE 2 "
    "PRETRAIN.EVAL_PERIOD 2 PRETRAIN.CHECKPOINT_PERIOD 3 PRETRAIN.DROPOUT 0.2 "
    "PRETRAIN.DROP_PATH_RATE 0.2 PRETRAIN.MIXUP 0.4 PRETRAIN.CUTMIX 1.0 "
    "PRETRAIN.RANDOM_ERASING 0.5 PRETRAIN.AUTO_AUGMENT rand-m9-n2 PRETRAIN.COLOR_JITTER 0.2 "
    "DATALOADER.NUM_WORKERS 0 MODEL.LAMBDA_RESNET.DEPTH 26"
).split()


def write_images(folder: Path, count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 256, size=(40 + index, 37, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def arguments(project: Path, data: Path, output: Path, *keys: object, resume: bool = False):
    """What tools/pretrain.py would parse."""
    opts = [*TINY, "OUTPUT_DIR", str(output), *map(str, keys)]
    return Namespace(data=str(data), config_file=str(project / CONFIG), opts=opts, resume=resume)


def start_tool(
    project: Path,
    data: Path,
    output: Path,
    *keys: object,
    launcher: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
) -> subprocess.Popen:
    """tools/pretrain.py in a process of its own, with as many threads as this one."""
    args = arguments(project, data, output, *keys)
    command = [sys.executable, "-W", "ignore", *launcher, str(project / "tools" / "pretrain.py")]
    command += ["--data", args.data, "--config-file", args.config_file, *flags, *args.opts]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(project)]))
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
