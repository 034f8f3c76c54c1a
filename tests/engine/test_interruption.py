"""Signals: to the process, to the workers of its loaders, through the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from lambda_det.data import loaders
from lambda_det.data.loaders import TrainingLoader
from lambda_det.engine.interruption import Interruption, TrainingInterrupted
from lambda_det.engine.launch import signals_handed_on

HANG_S = 600
"""Only what hangs waits for so long, on however busy a machine."""

IMAGES = [{"width": 10, "height": 9, "image_id": i} for i in range(5)]


def status_of_a_fork(action) -> int:
    """What a copy of this process ends with that does ``action``."""
    child = os.fork()
    if not child:
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_ends_at_once(first):
    def once() -> None:
        interruption = Interruption()
        with interruption.installed():
            signal.raise_signal(first)
            os._exit(7 if interruption.signum == first else 8)

    def twice() -> None:
        with Interruption().installed():
            signal.raise_signal(first)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    assert status_of_a_fork(once) == 7
    assert status_of_a_fork(twice) == -signal.SIGINT


def test_a_signal_before_an_evaluation_ends_it_too():
    interruption = Interruption()
    with interruption.installed():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(TrainingInterrupted), interruption.raising():
            raise AssertionError("it was begun")
        signal.raise_signal(signal.SIGTERM)  # outside of it nothing is raised


def _train(ready) -> None:
    interruption = Interruption()
    with interruption.installed():
        ready.set()
        while interruption.signum is None:
            time.sleep(0.01)
    os._exit(0 if interruption.signum == signal.SIGTERM else 9)


@pytest.mark.slow
def test_the_process_that_waits_hands_signals_on():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_train, args=(ready,))
    process.start()
    with pytest.raises(TrainingInterrupted) as stop, signals_handed_on():
        assert ready.wait(HANG_S)
        signal.raise_signal(signal.SIGINT)
        process.join(HANG_S)
    assert stop.value.code == 130 and process.exitcode == 0


@pytest.mark.slow
def test_workers_let_the_iteration_finish(monkeypatch):
    """Ctrl-C and SIGTERM of a whole group reach them; killed, they would stop the training."""
    # On a busy machine five batches may take longer than a worker goes on for.
    monkeypatch.setattr(loaders, "GRACE_S", HANG_S)
    others = multiprocessing.active_children()  # of tests before this one
    loader = TrainingLoader(
        IMAGES, dict, 2, make_sampler=lambda seed: _endless(),
        aspect_ratio_grouping=False, num_workers=1, seed=0,
    )  # fmt: skip
    batches = iter(loader)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - set(others)
    for name in ("INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    for _ in range(5):
        assert len(next(batches)) == 2
    assert worker.is_alive()
    loader.close()
    worker.join(HANG_S)  # PyTorch terminates it where it has not ended within five seconds
    assert not worker.is_alive()


def _work(ready) -> None:
    # As PyTorch's threads in a worker, which exist before worker_init_fn is called.
    threading.Thread(target=time.sleep, args=(2 * HANG_S,), daemon=True).start()
    loaders.GRACE_S = 0.2
    loaders.finish_before_ending(0)
    ready.set()
    time.sleep(2 * HANG_S)


def test_a_worker_ends_some_time_after_sigterm():
    """Whichever of its threads gets the signal; its default action would end it at once."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_work, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(HANG_S)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    worker.join(HANG_S)
    assert worker.exitcode == -signal.SIGKILL


_ENDS = """
from lambda_det.data import loaders
loaders.GRACE_S = 600
loader = loaders.TrainingLoader(
    [{"width": 10, "height": 9}] * 5, dict, 2, num_workers=2, aspect_ratio_grouping=False, seed=0
)
batches = iter(loader)
next(batches)
"""


@pytest.mark.slow
def test_a_script_that_ends_with_its_loader_does_not_wait_for_the_workers():
    subprocess.run([sys.executable, "-c", _ENDS], check=True, timeout=300)


def _endless():
    while True:
        yield from range(len(IMAGES))
