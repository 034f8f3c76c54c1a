#!/usr/bin/env python3
"""Train or evaluate a detector with detectron2's usual flags."""

from __future__ import annotations

import contextlib
import logging
import sys
from argparse import Namespace

import torch
from detectron2.engine import default_argument_parser, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from lambda_det.engine import Trainer, evaluate_weights, setup_config
from lambda_det.engine.interruption import STATUS, passed_on
from lambda_det.errors import (
    InputError,
    exit_on_input_error,
    is_input_error_of_a_worker,
    one_line,
)
from lambda_det.evaluation import metrics_table

logger = logging.getLogger("lambda_det")


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
        single = len(cfg.DATASETS.TEST) == 1
        for name, metrics in ({cfg.DATASETS.TEST[0]: results} if single else results).items():
            logger.info("Evaluation of %s (percent):\n%s", name, metrics_table(metrics))


@exit_on_input_error
def main() -> None:
    args = default_argument_parser().parse_args()
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        raise InputError(
            f"--num-gpus {args.num_gpus}: PyTorch sees {torch.cuda.device_count()} GPUs here"
        )
    several = args.num_gpus * args.num_machines > 1
    try:
        with passed_on() if several else contextlib.nullcontext():
            launch(
                run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
            )
    except ProcessExitedException as error:
        if error.exit_code in STATUS.values():  # the processes were interrupted, this one was not
            sys.exit(error.exit_code)
        raise
    except ProcessRaisedException as error:
        if is_input_error_of_a_worker(error):
            raise InputError(one_line(error)) from error
        raise


if __name__ == "__main__":
    sys.exit(main())
