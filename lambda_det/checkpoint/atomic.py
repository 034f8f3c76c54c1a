"""Files that a kill, a full disk or a power cut leaves whole: the old one or the new one."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch

from lambda_det.errors import InputError

TEMPORARY = ".tmp"
"""What the name of a file that is being written ends in; a kill leaves it behind."""


def save_atomically(content: Mapping[str, object], path: str) -> None:
    """Write a checkpoint at once or not at all.

    Raises:
        InputError: it cannot be written, for example because the disk is full.
    """
    write_atomically(path, lambda file: torch.save(dict(content), file))


def write_atomically(
    path: str, write: Callable[[BinaryIO], object], *, subject: str | None = None
) -> None:
    """Write a file beside its place, down to the disk, and then put it there in one step.

    Args:
        path: of the file; its folder exists.
        write: what writes the content into an open file.
        subject: of the error's sentence; None = the file as one of a run.

    Raises:
        InputError: it cannot be written. What was at ``path`` is still there, and nothing else.
    """
    temporary = path + TEMPORARY
    raw: _NotingFile | None = None
    try:
        raw = _NotingFile(temporary, "wb")
        with io.BufferedWriter(raw) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path) or ".")
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, (OSError, RuntimeError)):
            raise
        cause = (raw and raw.error) or error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        subject = f"OUTPUT_DIR: {path}" if subject is None else subject
        raise InputError(f"{subject} cannot be written ({reason})") from error


class _NotingFile(io.FileIO):
    """Keeps the system's error, of which torch.save makes one of its own without the reason."""

    error: OSError | None = None

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def remove_leftovers(folder: str) -> list[str]:
    """Remove what a kill has left of checkpoints, and return the names."""
    names = [name for name in os.listdir(folder) if name.endswith(f".pth{TEMPORARY}")]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    return names


def _sync_folder(folder: str) -> None:
    # Else a power cut may undo the renaming. Not every file system knows how: then it is as good.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
