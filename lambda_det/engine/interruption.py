"""SIGTERM and SIGINT: the training finishes its iteration, saves, and says how to go on.

Schedulers send SIGTERM before they take a machine away, a terminal sends SIGINT for Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType

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


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle the signals inside of the block, as far as this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes handlers from the main thread only
        return
    earlier = {signum: signal.signal(signum, handler) for signum in STATUS}
    try:
        yield
    finally:
        for signum, before in earlier.items():
            signal.signal(signum, before)


class Interruption(HookBase):
    """Notes the first SIGTERM or SIGINT while it is installed; a second SIGINT ends at once.

    As a hook it ends the training after the iteration in which a signal came, except the last one.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._raises = False

    def installed(self) -> AbstractContextManager[None]:
        """Handle the signals inside of the ``with`` block."""
        return handling(self._note)

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

    def after_step(self) -> None:
        signum = self.agreed()
        if signum is not None and self.trainer.iter + 1 < self.trainer.max_iter:
            raise TrainingInterrupted(signum)

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
