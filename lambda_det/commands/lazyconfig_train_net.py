"""Train or evaluate a detector of a LazyConfig with detectron2's usual flags.

The config is a Python program, which this command runs: use only configs that you trust.

lambda_det lazyconfig_train_net --num-gpus 8 --config-file C.py [--resume] [key=value ...]
"""

from __future__ import annotations

import logging
from argparse import Namespace

from detectron2.engine import default_argument_parser
from detectron2.utils import comm

from lambda_det.commands import command_parser
from lambda_det.engine.command import launch_command
from lambda_det.engine.lazy_settings import load_lazy_config, settings_of
from lambda_det.engine.lazy_trainer import train_or_evaluate
from lambda_det.errors import exit_on_input_error
from lambda_det.evaluation import metrics_table

logger = logging.getLogger("lambda_det")


def run(args: Namespace) -> None:
    """Train or evaluate; every process calls this function."""
    results = train_or_evaluate(args)
    if comm.is_main_process() and results:
        logger.info("Evaluation (percent):\n%s", metrics_table(results))


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, default_argument_parser())
    args = parser.parse_args(argv)
    device = settings_of(load_lazy_config(args.config_file, args.opts)).MODEL.DEVICE
    launch_command(run, args, device)
