"""What the command lines of trainings share: processes are started, and failures are one line."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable

from torch.multiprocessing import ProcessRaisedException

from lambda_det.engine.launch import WorkerLostError, launch
from lambda_det.errors import InputError, is_input_error_of_a_worker, one_line

_NOT_FINITE = f"{FloatingPointError.__name__}: "  # how the traceback of a process ends


def launch_command(run: Callable[[Namespace], None], args: Namespace, device: str) -> int:
    """``run(args)`` in every process that detectron2's flags ask for.

    Args:
        run: picklable.
        args: of detectron2's ``default_argument_parser``.
        device: that the training is on.

    Returns:
        The exit status: 0, or of a training that failed, because its loss was not finite or a
        process was lost, with a line on stderr.

    Raises:
        InputError: of this process or of one that it has started.
    """
    try:
        launch(
            run,
            args.num_gpus,
            device=device,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except (FloatingPointError, WorkerLostError) as error:
        return _fail(str(error), getattr(error, "status", 1))
    except ProcessRaisedException as error:
        if is_input_error_of_a_worker(error):
            raise InputError(one_line(error)) from error
        if (line := one_line(error)).startswith(_NOT_FINITE):
            return _fail(line.removeprefix(_NOT_FINITE), 1)
        raise
    return 0


def _fail(line: str, status: int) -> int:
    print(f"error: {line}", file=sys.stderr)
    return status
