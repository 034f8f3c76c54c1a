"""Reading of text files, and atomic writing: after a kill, a full disk or an error either the old
or the new file exists completely."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from lambda_det.errors import InputError, first_line_of

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp"
"""Suffix of a file while it is being written. Such a file remains if the process is killed."""


def read_text(*parts: str) -> str:
    """Return the text of a UTF-8 file; ``parts`` of its path are joined.

    Raises:
        InputError: the file cannot be read.
    """
    path = os.path.join(*parts)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_json(*parts: str, called: str = "") -> Any:
    """Return the content of a JSON file.

    Args:
        parts: the parts of the file's path, which are joined.
        called: what the error message calls the file, before the path.

    Raises:
        InputError: the file cannot be read, or is not valid JSON.
    """
    path = os.path.join(*parts)
    name = f"{called} {path}" if called else path
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows programs write a mark first
            return json.load(file)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {error}") from error


def write_json(content: object, path: str, *, indent: int | None = 2) -> None:
    """Write ``content`` as JSON atomically; missing folders are created.

    Raises:
        OSError: the file cannot be written.
        ValueError: the content contains NaN or infinity, which JSON cannot represent.
    """
    write_bytes((json.dumps(content, indent=indent, allow_nan=False) + "\n").encode(), path)


def write_bytes(content: bytes, path: str) -> None:
    """Write a file atomically; missing folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with _replacing(path) as file:
        file.write(content)


def write_atomically(
    path: str, write: Callable[[BinaryIO], object], *, subject: str | None = None
) -> None:
    """Write a file that a power cut must not damage: it is flushed to the disk before its renaming.

    Args:
        path: the file to write; its folder must exist.
        write: function that writes the content into the open binary file that it is given.
        subject: the beginning of the error message; None = ``"OUTPUT_DIR: {path}"``.

    Raises:
        InputError: the file cannot be written. An earlier file at ``path`` is then unchanged and
            the temporary file is removed.
    """
    try:
        with _replacing(path) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(os.path.dirname(path) or ".")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line_of(error)
        subject = f"OUTPUT_DIR: {path}" if subject is None else subject
        raise InputError(f"{subject} cannot be written ({reason})") from error


def save_atomically(content: Mapping[str, object], path: str) -> None:
    """Write a checkpoint with ``torch.save`` as :func:`write_atomically` writes.

    Raises:
        InputError: the file cannot be written, for example because the disk is full.
    """
    import torch  # here, because reading and writing of other files does not need it

    write_atomically(path, lambda file: torch.save(dict(content), file))


def cache_path(name: str) -> str:
    """Return the path of a file in the user's cache folder; "" for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    if not root and os.environ.get("HOME") != "":
        root = os.path.expanduser("~/.cache")
    return os.path.join(root, "lambda_det", name) if os.path.isabs(root) else ""


def read_cache(path: str) -> Any:
    """Return what :func:`write_cache` wrote; None if the file is missing, damaged or no file."""
    try:
        return read_json(path) if os.path.isfile(path) else None  # a pipe would wait for a writer
    except InputError:
        return None


def write_cache(content: object, path: str) -> None:
    """Write ``content`` as JSON for later processes; a folder that is read-only, or a full disk,
    is no error, because the content can be found again."""
    # Another process, also of another machine with the same home, may write at the same time.
    own = f"{path}.{os.getpid()}.{secrets.token_hex(8)}"
    try:
        write_json(content, own, indent=None)
        os.replace(own, path)
    except (OSError, ValueError):
        logger.debug("%s cannot be written", path)
        with contextlib.suppress(OSError):
            os.unlink(own)


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[str]:
    """Make a folder that appears complete or not at all.

    Yields:
        A temporary folder beside ``path``, which is renamed to ``path`` when the block ends without
        an error and removed otherwise.

    Raises:
        OSError: the folder cannot be written, or ``path`` is a folder that is not empty.
    """
    parent, name = os.path.split(os.path.abspath(path))
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=f"{name}.", dir=parent)
    try:
        os.chmod(temporary, 0o755)  # mkdtemp gives access to the owner only
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: str, flag: str = "--output") -> None:
    """Check that a file can be written, before a long computation, and make its folder.

    Args:
        path: path of the file.
        flag: the command-line flag that the error message names.

    Raises:
        InputError: the file cannot be written.
    """
    # Writing renames a temporary file to path, which would replace a device or a pipe.
    if not os.path.basename(path) or (os.path.exists(path) and not os.path.isfile(path)):
        raise InputError(f"{flag} {path} cannot be written: it is a folder or names no file")
    trial = path + TEMPORARY
    try:
        os.makedirs(os.path.dirname(trial) or ".", exist_ok=True)
        with open(trial, "w", encoding="utf-8"):
            pass
        os.unlink(trial)
    except OSError as error:
        raise InputError(f"{flag} {path} cannot be written: {error.strerror}") from error


def remove_leftovers(folder: str) -> list[str]:
    """Remove the temporary checkpoints that killed processes left in ``folder``.

    Returns:
        The names of the removed files.
    """
    names = leftovers(folder)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    return names


def leftovers(folder: str) -> list[str]:
    """Return the names of the temporary checkpoints in ``folder``."""
    return [name for name in os.listdir(folder) if name.endswith(f".pth{TEMPORARY}")]


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its place when the block ends without an error."""
    temporary = path + TEMPORARY
    raw: _FileWithError | None = None
    try:
        raw = _FileWithError(temporary, "wb")
        with io.BufferedWriter(raw) as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        # A full disk fails again when the file is closed, and then with another error.
        cause = raw.error if raw and raw.error and isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError) and cause.filename is None:  # a failed write names no file
            cause.filename = path
        if cause is error:
            raise
        raise cause from error


class _FileWithError(io.FileIO):
    """A file that keeps the OSError of a failed write.

    ``torch.save`` raises a RuntimeError in its place, which does not state the reason.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _sync_folder(folder: str) -> None:
    # Without os.fsync of the folder a power cut may undo the renaming. Some file systems do not
    # support it; the error is ignored, because nothing more can be done there.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
