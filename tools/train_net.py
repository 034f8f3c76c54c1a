#!/usr/bin/env python3
"""Train or evaluate a detector with detectron2's usual flags."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace

from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from lambda_det.engine import Trainer, evaluate_weights, setup_config
from lambda_det.errors import exit_on_input_error
from lambda_det.evaluation import metrics_table


def run(args: Namespace) -> None:
    """What every process does."""
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
        logging.getLogger("lambda_det").info(
            "Evaluation of %s (percent):\n%s", ", ".join(cfg.DATASETS.TEST), metrics_table(results)
        )


@exit_on_input_error
def main() -> None:
    args = default_argument_parser().parse_args()
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    sys.exit(main())
