"""A training for :mod:`studies.endurance.chaos`, with slow writes and a file of all losses.

``python -m studies.endurance.chaos_run --training KIND --config-file C --slow-write S …``
"""

from __future__ import annotations

import functools
import io
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import BinaryIO

import torch
from detectron2.engine import HookBase, default_argument_parser
from detectron2.utils.logger import setup_logger

from lambda_det.configs import load_config
from lambda_det.engine import (
    Parts,
    RunOptions,
    checkpointing,
    parts_from_cfg,
    parts_from_lazy,
    run,
)
from lambda_det.engine.lazy_config import load_lazy_config
from lambda_det.errors import exit_on_input_error
from lambda_det.io import write_atomically
from lambda_det.pretrain import get_pretrain_cfg, pretrain_parts
from lambda_det.pretrain.image_folder import read_image_folder

LOSSES_FILE = "losses.jsonl"
_PARTS = 20


def save_slowly(seconds: float, content: Mapping[str, object], path: str) -> None:
    """Write a checkpoint in parts and wait after each, so that a kill can hit the writing."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getbuffer()

    def write_slowly(file: BinaryIO) -> None:
        for part in range(_PARTS):
            ends = (len(data) * part // _PARTS, len(data) * (part + 1) // _PARTS)
            file.write(data[slice(*ends)])
            file.flush()
            time.sleep(seconds / _PARTS)

    write_atomically(path, write_slowly)


class LossLog(HookBase):
    """Writes ``{"iteration", "loss"}`` of every iteration to a file, before its checkpoint."""

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, LOSSES_FILE)

    def after_step(self) -> None:
        loss = self.trainer.storage.history("total_loss").latest()
        line = json.dumps({"iteration": self.trainer.iter, "loss": loss}) + "\n"
        with open(self._path, "a") as file:
            file.write(line)


def parts_of_pretraining(args: Namespace) -> tuple[Parts, RunOptions]:
    cfg = load_config(args.config_file, args.opts, defaults=get_pretrain_cfg())
    return pretrain_parts(cfg, read_image_folder(args.data))


PARTS = {
    "detection": lambda args: parts_from_cfg(load_config(args.config_file, args.opts)),
    "lazy": lambda args: parts_from_lazy(load_lazy_config(args.config_file, args.opts)),
    "pretrain": parts_of_pretraining,
}
"""Kind of a training -> a function of the arguments that builds its parts and options."""


@exit_on_input_error
def main() -> None:
    parser = default_argument_parser()
    parser.add_argument("--training", choices=PARTS, default="detection")
    parser.add_argument("--data", help="the ImageFolder of a pretraining")
    parser.add_argument("--slow-write", type=float, default=0.0)
    args = parser.parse_args()
    checkpointing.save_atomically = functools.partial(save_slowly, args.slow_write)
    setup_logger()
    parts, options = PARTS[args.training](args)
    run(parts, options, resume=args.resume, hooks=[LossLog(options.output_dir)])


if __name__ == "__main__":
    sys.exit(main())
