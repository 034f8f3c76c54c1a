"""InputError for mistakes of the user, and how a command shows it: one line and status 2."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from typing import Any


class InputError(ValueError):
    """A value, key or file from the user is wrong.

    The message is one line that names the key or file, the value and what is allowed. Characters
    that a terminal would execute or cannot show, such as a line break in a file name, are replaced
    by their Python escapes.

    Attributes:
        of_all_processes: whether each process of a training is known to raise it.
    """

    of_all_processes = False

    def __init__(self, text: object = "") -> None:
        text = str(text)
        # torch's DataLoader raises a worker's error again with the traceback as its text. The line
        # breaks of the traceback stay, so that one_line() can find the message.
        super().__init__(text if _TRACEBACK in text else printable(text))


class UnreadableImageError(InputError):
    """An image file is missing, cannot be decoded, or has another size than its json says."""


class RunFailedError(RuntimeError):
    """A run ended early although the user's input is valid.

    Args:
        text: the message, one line.
        status: exit status of the command.
    """

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


_key_names: ContextVar[Mapping[str, str]] = ContextVar("key_names")


def key(name: str) -> str:
    """Return the user's name of a config key, for a message.

    Args:
        name: the key in a YAML config, such as ``SOLVER.MAX_ITER``.
    """
    return _key_names.get({}).get(name, name)


@contextlib.contextmanager
def keys_named(names: Mapping[str, str]) -> Iterator[None]:
    """Let the messages of the ``with`` block name keys as the user's own config does.

    Args:
        names: key in a YAML config -> the user's name, such as ``train.max_iter`` in a LazyConfig.
            A key that is not in it keeps its name.
    """
    token = _key_names.set(names)
    try:
        yield
    finally:
        _key_names.reset(token)


_TRACEBACK = "Traceback (most recent call last)"
_QUALIFIED_NAMES = tuple(
    f"{kind.__module__}.{kind.__qualname__}: " for kind in (InputError, UnreadableImageError)
)


def printable(text: str) -> str:
    """Replace every unprintable character of ``text`` by its Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """Return the message of ``error`` as one line.

    An error of a DataLoader's worker has the worker's traceback as its text; the last line of it is
    the message.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    last = lines[-1]
    for name in _QUALIFIED_NAMES:
        last = last.removeprefix(name)
    return printable(last)


# Errors of which the file that was read is not the cause.
_OF_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)


def reason_of(error: BaseException) -> str:
    """Return the text of another library's error in one line; its type's name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def raise_if_of_machine(error: Exception, subject: str) -> None:
    """Raise an InputError, of which no image is left out, if a file is not to blame for an error:
    there is no memory left, too many files are open, or a disk or a network fails.

    Args:
        error: the error of reading the file.
        subject: the beginning of the message.
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_MACHINE:
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise InputError(
            f"{subject} cannot be read: {reason} (a fault of this machine, not of the file)"
        ) from error


def first_line_of(error: BaseException) -> str:
    """Return the first line of another library's error; its type's name if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shown(value: object) -> str:
    """Return a value of a file for a message: a short text or number as it is, else its type.

    The ``repr`` of a container that holds another one many times can take forever.
    """
    if isinstance(value, (str, float, bool)) or (isinstance(value, int) and abs(value) < 2**63):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}" if value is not None else "None"


def is_input_error_of_a_worker(error: BaseException) -> bool:
    """Return whether the text of ``error`` is another process's traceback of an InputError."""
    return str(error).strip().rpartition("\n")[2].startswith(_QUALIFIED_NAMES)


def release(error: BaseException) -> None:
    """Free what the functions that ``error`` has passed through were holding.

    They hold the iterator of a DataLoader whose worker raised the error, in a cycle. Python's
    garbage collector would close its queues before it can end its workers, and wait 10 s for them.
    """
    one: BaseException | None = error
    seen: set[int] = set()  # a chain can be circular
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        one = one.__cause__ or one.__context__


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise InputError, naming the argument ``name``, if ``value`` is not among ``allowed``."""
    if value not in allowed:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Convert an OSError in the ``with`` block into an InputError that names ``path``.

    Raises:
        InputError: ``path`` cannot be written, for example because the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


# Errors of a full or read-only disk. They are no faults of the program.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_SIGPIPE_STATUS = 141  # 128 + SIGPIPE, the status of a command whose reader has ended


def _stdout_is_closed() -> bool:
    """Return whether the reader of the standard output has ended (``| head``).

    In that case the standard output is redirected to the null device; otherwise Python would print
    an error when it flushes the output at its exit.
    """
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
    except (OSError, AttributeError):  # stdout is not a file, or the system has no poll
        return False
    poll.register(number, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), number)
    return True


def exit_on_input_error(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate the ``main`` function of a command so that it shows errors in one line.

    - :class:`InputError` or a full or read-only disk: one line, exit status 2.
    - :class:`RunFailedError`: one line and its own exit status.
    - The reader of the output has ended (``| head``): no message.
    - A character that the terminal's encoding does not have is printed as its Python escape.

    Returns:
        A function that returns the exit status.
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
            release(error)
            return 2
        except RunFailedError as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            return error.status
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _stdout_is_closed():
                return _SIGPIPE_STATUS
            if error.errno not in _DISK_ERRORS:
                raise
            name = error.filename or "a file"
            line = printable(f"{name}: cannot be written ({error.strerror})")
            print(f"error: {line}", file=sys.stderr)
            return 2

    return wrapped
