#!/usr/bin/env python3
"""Train or evaluate a detector with detectron2's usual flags."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

from lambda_det.engine import Trainer, evaluate_weights, setup_config
from lambda_det.engine.launch import WorkerLostError, launch
from lambda_det.engine.setup import load_config
from lambda_det.errors import (
    InputError,
    exit_on_input_error,
    is_input_error_of_a_worker,
    one_line,
)
from lambda_det.evaluation import metrics_table

logger = logging.getLogger("lambda_det")

_NOT_FINITE = f"{FloatingPointError.__name__}: "  # how the traceback of a process ends


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
def main() -> int:
    args = default_argument_parser().parse_args()
    try:
        launch(
            run,
            args.num_gpus,
            device=load_config(args.config_file, args.opts).MODEL.DEVICE,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except (FloatingPointError, WorkerLostError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "status", 1)
    except ProcessRaisedException as error:
        if is_input_error_of_a_worker(error):
            raise InputError(one_line(error)) from error
        if (line := one_line(error)).startswith(_NOT_FINITE):
            print(f"error: {line.removeprefix(_NOT_FINITE)}", file=sys.stderr)
            return 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
