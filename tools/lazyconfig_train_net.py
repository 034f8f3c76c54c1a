#!/usr/bin/env python3
"""Train or evaluate a detector of a LazyConfig with detectron2's usual flags and key=value words.
The config is a Python program and is run."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace

from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from lambda_det.engine.command import launch_command
from lambda_det.engine.lazy_settings import load_lazy_config, settings_of
from lambda_det.engine.lazy_trainer import train_or_evaluate
from lambda_det.errors import exit_on_input_error
from lambda_det.evaluation import metrics_table

logger = logging.getLogger("lambda_det")


def run(args: Namespace) -> None:
    """What every process does."""
    results = train_or_evaluate(args)
    if comm.is_main_process() and results:
        logger.info("Evaluation (percent):\n%s", metrics_table(results))


@exit_on_input_error
def main() -> int:
    args = default_argument_parser().parse_args()
    device = settings_of(load_lazy_config(args.config_file, args.opts)).MODEL.DEVICE
    if failure := launch_command(run, args, device):
        print(f"error: {failure.line}", file=sys.stderr)
        return failure.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
