"""SIGTERM and SIGINT: the training finishes its iteration, saves, and says how to go on.

Schedulers send SIGTERM before they take a machine away, a terminal sends SIGINT for Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import active_children

from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

INTERRUPTED_FILE = "interrupted.json"
"""In OUTPUT_DIR of a training that a signal has ended and nobody has taken up again."""

STATUS = {signal.SIGTERM: 0, signal.SIGINT: 130}
"""Signal -> exit status of a training that saved what it had."""


class TrainingInterrupted(SystemExit):
    """A signal ended the training in good order; ``code`` is the exit status.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(STATUS[signum])
        self.signal = signal.Signals(signum)


class Interruption:
    """Notes the first SIGTERM or SIGINT while it is installed; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._raises = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals inside of the block, as far as this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python takes handlers from the main thread only
            return
        earlier = {signum: signal.signal(signum, self._note) for signum in STATUS}
        try:
            yield
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """A signal inside of the block, or before it, ends the block at once.

        Several processes must leave a collective operation together: there it does nothing.
        """
        self._raises = comm.get_world_size() == 1
        try:
            if self._raises and self.signum is not None:
                raise TrainingInterrupted(self.signum)
            yield
        finally:
            self._raises = False

    def agreed(self) -> int | None:
        """The signal that one of the processes has noted, the same in all of them."""
        if comm.get_world_size() == 1:
            return self.signum
        return next((signum for signum in comm.all_gather(self.signum) if signum is not None), None)

    def _note(self, signum: int, frame: object) -> None:
        if signum == signal.SIGINT:
            # By the system and not by Python, which would wait for a long operation's end.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.signum is None:
            self.signum = signum
            logger.info(
                "%s: stopping after this iteration%s",
                signal.Signals(signum).name,
                " (Ctrl-C again: at once, without saving)" if signum == signal.SIGINT else "",
            )
        if self._raises:
            raise TrainingInterrupted(self.signum)


class StopWhenInterrupted(HookBase):
    """Ends the training behind an iteration in which a signal came, except the last one."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def after_step(self) -> None:
        signum = self._interruption.agreed()
        if signum is not None and self.trainer.iter + 1 < self.trainer.max_iter:
            raise TrainingInterrupted(signum)


@contextlib.contextmanager
def passed_on() -> Iterator[list[int]]:
    """In the process that starts trainings and waits for them: hand its signals on to them.

    Gives the list of those that came, as they come.

    Raises:
        TrainingInterrupted: after the block, if there was such a signal.
    """
    noted: list[int] = []

    def hand_on(signum: int, frame: object) -> None:
        noted.append(signum)
        for child in active_children():
            # Never SIGINT: a terminal has sent it to all of them, and a second one ends at once.
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)

    earlier = {signum: signal.signal(signum, hand_on) for signum in STATUS}
    try:
        yield noted
    finally:
        for signum, handler in earlier.items():
            signal.signal(signum, handler)
    if noted:
        raise TrainingInterrupted(noted[0])
