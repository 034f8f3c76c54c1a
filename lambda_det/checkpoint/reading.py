"""Safe reading of files of weights: no code in a file is run."""

from __future__ import annotations

import logging
import os
import re
import zipfile

from detectron2.utils.logger import log_first_n

from lambda_det.checkpoint.restricted_pickle import ForbiddenName
from lambda_det.checkpoint.torch_files import read_pickle, read_zip
from lambda_det.errors import InputError, first_line_of

logger = logging.getLogger(__name__)

FORMATS = ".pth of PyTorch, .safetensors or .pkl of detectron2's model zoo"
_SNIFFED_BYTES = 16
_ZIP = b"PK\x03\x04"


def read_file(path: str, *, stand_ins: bool = False) -> object:
    """Read a file of weights. The format is detected from its first bytes, not from its name.

    Args:
        path: the file.
        stand_ins: whether an object of a class that is not known may be in the file. It becomes a
            :class:`~lambda_det.checkpoint.stand_ins.StandIn`, and one line of log says so.

    Returns:
        Nested plain containers of tensors, numpy arrays, numbers and text. Of a safetensors file
        the header's entries, and its tensors under ``"model"``.

    Raises:
        InputError: the file does not exist, is empty or truncated, has an unknown format, or refers
            to a class or function that is neither a tensor's, a numpy array's nor a plain
            container's, and ``stand_ins`` is False.
    """
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder; expected a checkpoint file ({FORMATS})")
    try:
        with open(path, "rb") as file:
            start = file.read(_SNIFFED_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror})") from error
    _refuse_other_kinds(path, start)
    if start.startswith(_ZIP) and not zipfile.is_zipfile(path):  # its directory is at its end
        raise InputError(f"{path}: is truncated; the end of the checkpoint is missing")
    unknown: list[str] | None = [] if stand_ins else None
    try:
        if start.startswith(_ZIP):
            content = read_zip(path, unknown)
        elif start[8:9] == b"{":
            content = _read_safetensors(path)
        else:
            content = read_pickle(path, unknown)
    except InputError:
        raise
    except ForbiddenName as error:
        raise InputError(
            f"{path}: the file was refused, because it refers to {error}, which is not a tensor, "
            "numpy array or plain container; no code in it was run"
        ) from error
    except Exception as error:  # damaged files raise exceptions of many types
        raise InputError(
            f"{path}: cannot be read as a checkpoint; the file is truncated or damaged "
            f"({first_line_of(error)})"
        ) from error
    if unknown:
        first = ", ".join(re.sub(r"[^\w.<>]", "?", name)[:80] for name in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        message = (
            f"{path}: unknown classes and functions in it: {len(unknown)} ({first}{more}); inert "
            "stand-ins took their place, and nothing of them was imported or run"
        )
        log_first_n(logging.INFO, message, name=__name__, key="message")
    return content


def _refuse_other_kinds(path: str, start: bytes) -> None:
    if not start:
        raise InputError(f"{path}: is empty; expected a checkpoint ({FORMATS})")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<")):
        raise InputError(
            f"{path}: is a web page, not a checkpoint ({FORMATS}); download the file again"
        )
    if start.startswith(b"version https://"):
        raise InputError(
            f"{path}: is a Git LFS pointer, not a checkpoint; run 'git lfs pull' to download it"
        )
    is_known = start.startswith((_ZIP, b"\x80")) or start[8:9] == b"{"
    if not is_known and not start.startswith((b"(", b"c", b"}", b"]")):  # pickles of protocol 0, 1
        raise InputError(f"{path}: is not a checkpoint; expected {FORMATS}")


def _read_safetensors(path: str) -> dict[str, object]:
    try:
        from safetensors import safe_open
    except ModuleNotFoundError:
        raise InputError(
            f"{path}: safetensors files need the package safetensors, which is not installed: "
            "pip install safetensors"
        ) from None
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {**(file.metadata() or {}), "model": tensors}
