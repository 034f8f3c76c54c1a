"""Atomic writing of files: after a kill, a full disk or a power cut either the old or the new file
exists completely."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch

from lambda_det.errors import InputError

TEMPORARY = ".tmp"
"""Suffix of a file while it is being written. Such a file remains if the process is killed."""


def save_atomically(content: Mapping[str, object], path: str) -> None:
    """Write a checkpoint with ``torch.save`` atomically.

    Raises:
        InputError: the file cannot be written, for example because the disk is full.
    """
    write_atomically(path, lambda file: torch.save(dict(content), file))


def write_atomically(
    path: str, write: Callable[[BinaryIO], object], *, subject: str | None = None
) -> None:
    """Write a temporary file in the same folder, flush it to the disk, and rename it to ``path``.

    Args:
        path: the file to write; its folder must exist.
        write: function that writes the content into the open binary file that it is given.
        subject: the beginning of the error message; None = ``"OUTPUT_DIR: {path}"``.

    Raises:
        InputError: the file cannot be written. An earlier file at ``path`` is then unchanged and
            the temporary file is removed.
    """
    temporary = path + TEMPORARY
    raw: _FileWithError | None = None
    try:
        raw = _FileWithError(temporary, "wb")
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


class _FileWithError(io.FileIO):
    """A file that keeps the OSError of a failed write.

    ``torch.save`` raises a RuntimeError in its place, which does not state the reason.
    """

    error: OSError | None = None

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def remove_leftovers(folder: str) -> list[str]:
    """Remove the temporary checkpoints that killed processes left in ``folder``.

    Returns:
        The names of the removed files.
    """
    names = [name for name in os.listdir(folder) if name.endswith(f".pth{TEMPORARY}")]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
    return names


def _sync_folder(folder: str) -> None:
    # Without os.fsync of the folder a power cut may undo the renaming. Some file systems do not
    # support it; the error is ignored, because nothing more can be done there.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
