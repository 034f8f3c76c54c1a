"""Train or evaluate a detector with detectron2's usual flags.

lambda_det train_net --num-gpus 8 --config-file C.yaml [--resume] [KEY VALUE ...]
lambda_det train_net --eval-only --config-file C.yaml MODEL.WEIGHTS W.pth [KEY VALUE ...]
With several machines, run it on each and add --num-machines N --machine-rank R --dist-url URL.
"""

from __future__ import annotations

import logging
from argparse import Namespace

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from lambda_det.commands import command_parser
from lambda_det.configs import load_config
from lambda_det.engine import Trainer, evaluate_weights, setup_config
from lambda_det.engine.command import launch_command
from lambda_det.errors import exit_on_input_error
from lambda_det.evaluation import metrics_table

logger = logging.getLogger("lambda_det")


def run(args: Namespace) -> None:
    """Train or evaluate; every process calls this function."""
    cfg = setup_config(args)
    if args.eval_only:
        results = evaluate_weights(cfg)
        if comm.is_main_process():
            verify_results(cfg, results)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process() and results:
        single = len(cfg.DATASETS.TEST) == 1
        for name, metrics in ({cfg.DATASETS.TEST[0]: results} if single else results).items():
            logger.info("Evaluation of %s (percent):\n%s", name, metrics_table(metrics))


@exit_on_input_error
def main(argv: list[str] | None = None) -> None:
    parser = command_parser(__name__, __doc__, default_argument_parser())
    args = parser.parse_args(argv)
    device = load_config(args.config_file, args.opts).MODEL.DEVICE
    launch_command(run, args, device)
