"""The one error a user is meant to see, and how a command line shows it."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any


class InputError(ValueError):
    """A value, key or file given by the user is wrong.

    The text is one line that names the key or file, the value, and what is allowed. What a terminal
    would obey or cannot show (line breaks, escape sequences in a file name) is written out.
    """

    def __init__(self, text: object = "") -> None:
        text = str(text)
        # A data loader raises this error again, around the traceback of its worker.
        super().__init__(text if _TRACEBACK in text else printable(text))


class RunFailedError(RuntimeError):
    """A run ended early, and nothing that the user gave is wrong.

    Args:
        text: one line.
        status: exit status of a command line that it ends.
    """

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


_TRACEBACK = "Traceback (most recent call last)"
_QUALIFIED_NAME = f"{InputError.__module__}.{InputError.__qualname__}: "


def printable(text: str) -> str:
    """``text`` with every character that is not to be seen as its Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """The user's line of ``error``.

    A data-loader worker's error arrives wrapped in the worker's traceback; its last line holds
    the original text.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[-1].removeprefix(_QUALIFIED_NAME))


def reason_of(error: BaseException) -> str:
    """The text of an error of another library in one line; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def is_input_error_of_a_worker(error: BaseException) -> bool:
    """Whether ``error`` carries the traceback of another process that ended in InputError."""
    return str(error).strip().rpartition("\n")[2].startswith(_QUALIFIED_NAME)


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """An OSError of the block (a full disk, no permission) becomes the line that names ``path``.

    Raises:
        InputError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


# A full disk, quota or file, and a disk that is not to be written: nothing of ours is wrong.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


_SIGPIPE = 141  # what a shell calls a command that its reader has left (128 + SIGPIPE)


def _reader_has_gone() -> bool:
    """Whether nobody reads the standard output any more (``| head``); then nothing more goes to it,
    and Python does not complain of that at its end."""
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
    except (OSError, AttributeError):  # no file, or a system without poll
        return False
    poll.register(number, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), number)
    return True


def exit_on_input_error(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorator of a tool's ``main``: an :class:`InputError` becomes one line and status 2, a
    :class:`RunFailedError` one line and its status.

    So does a disk that is full. A reader that leaves (``| head``) ends the tool without a word. A
    terminal that lacks a letter gets its escape; nothing ends because of a name.
    """

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            status = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return status
        except InputError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2
        except RunFailedError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return error.status
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_has_gone():
                return _SIGPIPE
            if error.errno not in _NO_ROOM:
                raise
            name = error.filename or "a file"
            line = printable(f"{name}: cannot be written ({error.strerror})")
            print(f"error: {line}", file=sys.stderr)
            return 2

    return wrapped
