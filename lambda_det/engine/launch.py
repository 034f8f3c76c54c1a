"""Several processes of one training: on GPUs (NCCL) or on a CPU (gloo), spawned or by torchrun.

detectron2's own launcher wants a GPU in some versions, and waits without an end for processes that
wait for one that was killed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import active_children, connection
from typing import NoReturn

import torch
import torch.distributed as dist
from detectron2.engine.launch import DEFAULT_TIMEOUT
from torch import multiprocessing
from torch.multiprocessing import ProcessRaisedException

from lambda_det.compat import make_local_group
from lambda_det.engine.interruption import STATUS, TrainingInterrupted, handling
from lambda_det.errors import InputError, RunFailedError, is_input_error_of_a_worker, one_line

GRACE_S = 20
"""Seconds that processes have to end by themselves after one of them has failed."""

_NOT_FINITE = f"{FloatingPointError.__name__}: "  # how the traceback of a process ends
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class WorkerLostError(RunFailedError):
    """A process of the training was killed."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(
    main: Callable[..., None],
    processes: int = 1,
    *,
    device: str = "cuda",
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: Sequence[object] = (),
) -> None:
    """Call ``main(*args)`` in every process of a training, with a process group if it is several.

    Under torchrun this process is one of them; otherwise ``processes`` are spawned on this machine.

    Args:
        main: picklable where processes are spawned.
        processes: on this machine; on GPUs one for each. 0 is this one, as 1 is.
        device: ``MODEL.DEVICE``; "cpu" takes gloo and shares out the cores, unless OMP_NUM_THREADS
            says how many a process takes; any other takes NCCL.
        num_machines, machine_rank, dist_url: as detectron2's ``launch``.
        args: of ``main``.

    Raises:
        InputError: more processes than GPUs, or fewer than none, or ``processes`` given under
            torchrun too; no such machine; or several processes and one device of a number.
        TrainingInterrupted: this process had a signal, which it has handed on.
        WorkerLostError: a process was killed, or had a signal before it could finish an iteration;
            the others have been ended.
        torch.multiprocessing.ProcessRaisedException: ``main`` failed in a spawned process; the
            error is that of the first one which failed.
    """
    if num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise InputError(
            f"--num-machines {num_machines}, --machine-rank {machine_rank}: expected 1 or more "
            "machines, and a rank from 0 to one less"
        )
    if is_of_torchrun():
        if processes > 1 or num_machines > 1:
            raise InputError(
                f"--num-gpus {processes}, --num-machines {num_machines}: torchrun has started the "
                "processes; leave these out"
            )
        local, on_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        _check_devices(
            device, on_machine, int(os.environ["WORLD_SIZE"]), "torchrun --nproc-per-node"
        )
        _join_group(local, on_machine, device, "env://")
        _call(main, args)
        return
    if processes < 0:
        raise InputError(f"--num-gpus {processes}: expected 0 or more processes")
    processes = max(1, processes)  # "no GPU" is a process on the CPU
    world = processes * num_machines
    _check_devices(device, processes, world, "--num-gpus")
    if world == 1:
        main(*args)
        return
    if dist_url == "auto" and num_machines > 1:
        raise InputError("--dist-url auto: is for one machine; give tcp://HOST:PORT of the first")
    with signals_handed_on() as noted, tempfile.TemporaryDirectory(prefix="lambda_det_") as folder:
        if dist_url == "auto":  # a file: a port that is free now may be another's a second later
            dist_url = f"file://{folder}/rendezvous"
        context = multiprocessing.start_processes(
            _worker,
            args=(main, args, processes, device, dist_url, world, machine_rank * processes),
            nprocs=processes,
            join=False,
            start_method="spawn",
        )
        _wait(context, noted)


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


def _check_devices(device: str, on_machine: int, in_all: int, flag: str) -> None:
    kind, _, number = device.partition(":")
    if in_all > 1 and number:
        raise InputError(
            f"MODEL.DEVICE={device!r}: is one device for {in_all} processes; take {kind}, and "
            "each has its own"
        )
    there = torch.cuda.device_count()
    if on_machine > 1 and device != "cpu" and on_machine > there:
        raise InputError(
            f"{flag} {on_machine}: PyTorch sees {there} GPUs here; MODEL.DEVICE cpu runs as many "
            "processes on the CPU"
        )


def _worker(
    local: int,
    main: Callable[..., None],
    args: Sequence[object],
    on_machine: int,
    device: str,
    dist_url: str,
    world: int,
    first: int,
) -> None:
    _join_group(local, on_machine, device, dist_url, world_size=world, rank=first + local)
    end_after(lambda: _call(main, args))


def _join_group(local: int, on_machine: int, device: str, url: str, **rank: int) -> None:
    if device == "cpu":
        _share_cores(on_machine)
    else:
        torch.cuda.set_device(local)
    dist.init_process_group(
        "gloo" if device == "cpu" else "nccl", init_method=url, timeout=DEFAULT_TIMEOUT, **rank
    )
    make_local_group(on_machine)
    dist.barrier()


def _share_cores(processes: int) -> None:
    """Otherwise each of these processes takes all the cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    # torchrun's own default is 1, whatever the machine has.
    if not said or (said == "1" and "TORCHELASTIC_RUN_ID" in os.environ):
        torch.set_num_threads(max(1, cores() // processes))


def end_after(work: Callable[[], None]) -> NoReturn:
    """Do the work of a process of several, and end the process with the status of the work.

    Python is not shut down: threads of gloo that are still there then abort some processes.
    """
    status = 0
    try:
        work()
    except SystemExit as stop:  # such as a training that a signal has ended in good order
        if isinstance(stop.code, int | None):
            status = stop.code or 0
        else:  # a text, as Python has it
            sys.stderr.write(f"{stop.code}\n")
            status = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_of_torchrun() -> bool:
    """Return whether torchrun has started this process."""
    return all(name in os.environ for name in _TORCHRUN)


def _call(main: Callable[..., None], args: Sequence[object]) -> None:
    main(*args)
    # Not after an error: another process may never come to it.
    dist.destroy_process_group()


@contextlib.contextmanager
def signals_handed_on() -> Iterator[list[int]]:
    """Hand the signals of this process, which waits for trainings, on to them.

    Gives the list of those that came, as they come.

    Raises:
        TrainingInterrupted: after the block, if there was such a signal.
    """
    noted: list[int] = []

    def hand_on(signum: int, frame: object) -> None:
        noted.append(signum)
        for child in active_children():
            # Never SIGINT: a terminal has sent it to all of them, and a second one ends at once.
            child.terminate()

    with handling(hand_on):
        yield noted
    if noted:
        raise TrainingInterrupted(noted[0])


def _wait(context: multiprocessing.ProcessContext, signals: Sequence[int] = ()) -> None:
    """Wait for all processes; end them if one fails, for they wait for it.

    Args:
        context: the processes.
        signals: those that were handed on to them so far, as they come.
    """
    processes = context.processes
    running = list(processes)
    failed: list[int] = []
    while running and not failed:
        connection.wait([process.sentinel for process in running])
        running = [process for process in running if process.exitcode is None]
        failed = [i for i, process in enumerate(processes) if process.exitcode]
    end = time.monotonic() + GRACE_S
    for process in running:
        process.join(max(0.0, end - time.monotonic()))
        if process.exitcode is None:
            process.kill()  # it may wait in a collective operation, where it hears nothing else
            process.join()

    def moment(index: int) -> float:
        """When a process raised an error; infinity if it did not."""
        try:
            return os.stat(context.error_files[index]).st_mtime_ns
        except (OSError, AttributeError):  # it has not raised, or PyTorch keeps no files yet
            return math.inf

    has_raised = any(math.isfinite(moment(index)) for index in range(len(processes)))
    # Of those only that failed first: PyTorch aborts a process that has lost another one, and that
    # other one, which has raised an error, may take longer to end.
    for index in failed:
        number = -processes[index].exitcode
        if number < 0 or (number == signal.SIGABRT and has_raised):
            continue
        if signals and number == signal.SIGTERM:  # a training would have finished its iteration
            raise WorkerLostError(
                f"stopped by {signal.Signals(signals[0]).name} before the first iteration or "
                "after the last one: nothing more is saved; to go on: the same with --resume",
                128 + signals[0],
            )
        raise WorkerLostError(
            f"process {index} was killed ({signal.Signals(number).name}), the others have been "
            "ended; --resume goes on from the last checkpoint"
        )
    interrupted = STATUS[signal.SIGINT]
    if {process.exitcode for process in processes} == {interrupted}:
        raise SystemExit(interrupted)
    if failed:  # let join raise the first error: the others are of the lost connection to it
        first = min((i for i, process in enumerate(processes) if process.exitcode), key=moment)
        context.sentinels = {processes[first].sentinel: first}
    while not context.join():  # raises what a process raised
        pass
