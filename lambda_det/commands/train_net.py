"""Train or evaluate a detector with detectron2's usual flags.

lambda_det train_net --num-gpus 8 --config-file C.yaml [--resume] [KEY VALUE ...]
lambda_det train_net --dry-run --config-file C.yaml [KEY VALUE ...]
lambda_det train_net --eval-only --config-file C.yaml MODEL.WEIGHTS W.pth [KEY VALUE ...]
With several machines, run it on each and add --num-machines N --machine-rank R --dist-url URL.
"""

from __future__ import annotations

import logging
import os
from argparse import Namespace

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from lambda_det.commands import add_import, command_parser
from lambda_det.configs import load_config, read_config
from lambda_det.engine import evaluate_weights, run, setup_config
from lambda_det.engine.checks import Recipe
from lambda_det.engine.dry_run import add_dry_run, check_dry_run, dry_run
from lambda_det.engine.launch import launch_command
from lambda_det.engine.setup import import_words, log_model
from lambda_det.engine.yacs import build_parts
from lambda_det.errors import exit_on_input_error
from lambda_det.evaluation import metrics_table
from lambda_det.records import tool_words

logger = logging.getLogger("lambda_det")


def train_or_evaluate(args: Namespace) -> None:
    """Train or evaluate; every process calls this function."""
    cfg = setup_config(args)
    if args.eval_only:
        results = evaluate_weights(cfg)
        if comm.is_main_process():
            verify_results(cfg, results)
    else:
        recipe = Recipe.of(read_config(args.config_file), args.opts)
        parts, options = build_parts(cfg, recipe)
        if args.dry_run:
            dry_run(parts, options)
            return
        log_model(parts.model)
        written = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        command = [*tool_words("train_net"), *import_words(args.modules)]
        parts.resume_command = [*command, "--config-file", written, "--resume"]
        results = run(parts, options, resume=args.resume)
    if comm.is_main_process() and results:
        single = len(cfg.DATASETS.TEST) == 1
        for name, metrics in ({cfg.DATASETS.TEST[0]: results} if single else results).items():
            logger.info("Evaluation of %s (percent):\n%s", name, metrics_table(metrics))


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = add_dry_run(command_parser(__name__, __doc__, default_argument_parser()))
    parser.set_defaults(dist_url="auto")  # detectron2's is one port for all runs of a user
    args = add_import(parser).parse_args(argv)
    check_dry_run(args)
    launch_command(train_or_evaluate, args, load_config(args.config_file, args.opts).MODEL.DEVICE)
