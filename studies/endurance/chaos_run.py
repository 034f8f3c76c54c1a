"""A training for :mod:`studies.endurance.chaos`, with slow writes and a file of all losses.

``python -m studies.endurance.chaos_run --config-file C --slow-write SECONDS [--resume] …``
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import BinaryIO

import torch
from detectron2.engine import HookBase, default_argument_parser

from lambda_det.engine import Trainer, setup_config
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.errors import exit_on_input_error
from lambda_det.io import write_atomically

LOSSES_FILE = "losses.jsonl"
_PARTS = 20


class SlowCheckpointer(RunCheckpointer):
    """Writes a checkpoint in parts and waits after each, so that a kill can hit the writing."""

    seconds = 0.0

    def write(self, content: Mapping[str, object], path: str) -> None:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        data = buffer.getbuffer()

        def slowly(file: BinaryIO) -> None:
            for part in range(_PARTS):
                ends = (len(data) * part // _PARTS, len(data) * (part + 1) // _PARTS)
                file.write(data[slice(*ends)])
                file.flush()
                time.sleep(self.seconds / _PARTS)

        write_atomically(path, slowly)


class LossLog(HookBase):
    """Writes ``{"iteration", "loss"}`` of every iteration to a file, before its checkpoint."""

    def after_step(self) -> None:
        loss = self.trainer.storage.history("total_loss").latest()
        line = json.dumps({"iteration": self.trainer.iter, "loss": loss}) + "\n"
        with open(os.path.join(self.trainer.cfg.OUTPUT_DIR, LOSSES_FILE), "a") as file:
            file.write(line)


class ChaosTrainer(Trainer):
    """The trainer with :class:`SlowCheckpointer` and :class:`LossLog`."""

    checkpointer_class = SlowCheckpointer

    def build_hooks(self) -> list[HookBase]:
        return [LossLog(), *super().build_hooks()]


@exit_on_input_error
def main() -> None:
    parser = default_argument_parser()
    parser.add_argument("--slow-write", type=float, default=0.0)
    args = parser.parse_args()
    SlowCheckpointer.seconds = args.slow_write
    trainer = ChaosTrainer(setup_config(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    sys.exit(main())
