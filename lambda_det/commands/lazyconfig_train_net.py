"""Train or evaluate a detector of a LazyConfig with detectron2's usual flags.

The config is a Python program, which this command runs: use only configs that you trust.

lambda_det lazyconfig_train_net --num-gpus 8 --config-file C.py [--resume] [key=value ...]
"""

from __future__ import annotations

import logging
from argparse import Namespace

from detectron2.config import instantiate
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig

from lambda_det.commands import add_import, command_parser
from lambda_det.configs import find_lazy_config
from lambda_det.engine import parts_from_lazy, run
from lambda_det.engine.dry_run import add_dry_run, check_dry_run, dry_run
from lambda_det.engine.launch import launch_command
from lambda_det.engine.lazy import (
    build_lazy_parts,
    evaluate_lazy,
    lazy_device,
    load_lazy_weights,
    prepare_lazy,
    set_largest_size,
)
from lambda_det.engine.lazy_config import (
    LAZY_NAMES,
    load_lazy_config,
    warn_of_keys_without_effect,
)
from lambda_det.engine.parts import Results
from lambda_det.engine.setup import import_modules, import_words, log_model, start_run
from lambda_det.errors import InputError, exit_on_input_error, key, keys_named
from lambda_det.evaluation import metrics_table
from lambda_det.records import tool_words

logger = logging.getLogger("lambda_det")


def train_or_evaluate(args: Namespace) -> None:
    """Train or evaluate; every process calls this function."""
    setup_logger(distributed_rank=comm.get_rank())
    import_modules(args.modules)
    args = Namespace(**{**vars(args), "config_file": find_lazy_config(args.config_file)})
    lazy = load_lazy_config(args.config_file, args.opts)
    if args.dry_run:
        set_largest_size(lazy)
        dry_run(*parts_from_lazy(lazy))
        return
    with keys_named(LAZY_NAMES):
        options = prepare_lazy(lazy, for_training=not args.eval_only)
        start_run(lazy, args, options.output_dir)
        if args.eval_only:
            results = _evaluate(lazy, options.weights)
        else:
            warn_of_keys_without_effect(lazy)
            parts, options = build_lazy_parts(lazy, options)
            log_model(parts.model)
            command = [*tool_words("lazyconfig_train_net"), "--config-file", args.config_file]
            command += import_words(args.modules)
            parts.resume_command = [*command, "--resume", *args.opts]
            results = run(parts, options, resume=args.resume)
    if comm.is_main_process() and results:
        logger.info("Evaluation (percent):\n%s", metrics_table(results))


def _evaluate(lazy: DictConfig, weights: str) -> Results:
    if not weights:
        name = key("MODEL.WEIGHTS")
        raise InputError(f"{name} is empty: evaluation needs the weights of a trained model")
    model = instantiate(lazy.model).to(lazy_device(lazy))
    load_lazy_weights(lazy, model, weights, complete=True)
    return evaluate_lazy(lazy, model)


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = add_dry_run(command_parser(__name__, __doc__, default_argument_parser()))
    parser.set_defaults(dist_url="auto")  # detectron2's is one port for all runs of a user
    args = add_import(parser).parse_args(argv)
    import_modules(args.modules)
    check_dry_run(args)
    device = lazy_device(load_lazy_config(args.config_file, args.opts))
    launch_command(train_or_evaluate, args, device)
