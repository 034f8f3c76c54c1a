"""What the command lines of trainings share: processes are started, and failures are one line."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from torch.multiprocessing import ProcessRaisedException

from lambda_det.engine.launch import end_after, is_of_torchrun, launch
from lambda_det.errors import InputError, RunFailedError, is_input_error_of_a_worker, one_line

_NOT_FINITE = f"{FloatingPointError.__name__}: "  # how the traceback of a process ends


def launch_command(run: Callable[[Namespace], None], args: Namespace, device: str) -> None:
    """``run(args)`` in every process that detectron2's flags ask for.

    Args:
        run: picklable.
        args: of detectron2's ``default_argument_parser``.
        device: that the training is on.

    Raises:
        InputError: of this process or of one that it has started.
        RunFailedError: a loss was not finite, or a process was killed.
    """

    def start() -> None:
        launch(
            run,
            args.num_gpus,
            device=device,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )

    try:
        if is_of_torchrun():
            end_after(start)
        start()
    except FloatingPointError as error:
        raise RunFailedError(str(error)) from error
    except ProcessRaisedException as error:
        line = one_line(error)
        if is_input_error_of_a_worker(error):
            raise InputError(line) from error
        if line.startswith(_NOT_FINITE):
            raise RunFailedError(line.removeprefix(_NOT_FINITE)) from error
        raise
