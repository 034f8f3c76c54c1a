"""What the command lines of trainings share: processes are started, and failures are one line."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from torch.multiprocessing import ProcessRaisedException

from lambda_det.engine.launch import WorkerLostError, launch
from lambda_det.errors import InputError, is_input_error_of_a_worker, one_line

_NOT_FINITE = f"{FloatingPointError.__name__}: "  # how the traceback of a process ends


class Failure(NamedTuple):
    """A training that failed for a reason which one line says."""

    line: str
    status: int = 1


def launch_command(
    run: Callable[[Namespace], None], args: Namespace, device: str
) -> Failure | None:
    """``run(args)`` in every process that detectron2's flags ask for.

    Args:
        run: picklable.
        args: of detectron2's ``default_argument_parser``.
        device: that the training is on.

    Returns:
        The failure, if the loss was not finite or a process was killed.

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
        return Failure(str(error), getattr(error, "status", 1))
    except ProcessRaisedException as error:
        if is_input_error_of_a_worker(error):
            raise InputError(one_line(error)) from error
        if (line := one_line(error)).startswith(_NOT_FINITE):
            return Failure(line.removeprefix(_NOT_FINITE))
        raise
    return None
