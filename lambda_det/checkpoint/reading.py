"""Safe reading of files of weights: no code in a file is run."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import zipfile
from argparse import Namespace

import numpy as np
import torch

from lambda_det.checkpoint.numpy_pickle import (
    RECONSTRUCT,
    SCALAR,
    ForbiddenName,
    load_numpy_pickle,
)
from lambda_det.errors import InputError, first_line_of

FORMATS = ".pth of PyTorch, .safetensors or .pkl of detectron2's model zoo"
_SNIFFED_BYTES = 16
_ZIP = b"PK\x03\x04"
_TORCH_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9"  # the magic number of torch.save before 1.6


def read_file(path: str) -> object:
    """Read a file of weights. The format is detected from its first bytes, not from its name.

    PyTorch's files are read with ``torch.load(weights_only=True)``, safetensors files with the
    safetensors package, and other pickles with :func:`load_numpy_pickle`.

    Returns:
        Nested plain containers of tensors, numpy arrays, numbers and text. Of a safetensors file
        the header's entries, and its tensors under ``"model"``.

    Raises:
        InputError: the file does not exist, is empty or truncated, has an unknown format, or refers
            to a class or function that is neither a tensor's, a numpy array's nor a plain
            container's.
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
    try:
        if start.startswith((_ZIP, _TORCH_LEGACY)):
            return _read_torch(path, is_zip=start.startswith(_ZIP))
        if start[8:9] == b"{":
            return _read_safetensors(path)
        with open(path, "rb") as file:
            return load_numpy_pickle(file)
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


def _read_torch(path: str, *, is_zip: bool) -> object:
    if is_zip and not zipfile.is_zipfile(path):  # a zip's directory is at its end
        raise InputError(f"{path}: is truncated; the end of the checkpoint is missing")
    try:
        with _harmless_types():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"(?:GLOBAL|function|class|instantiate) `?([\w.<>]+)", str(error))
        if name is None:
            raise
        raise ForbiddenName(name[1].rstrip(".")) from error


def _harmless_types() -> contextlib.AbstractContextManager:
    """Allow ``torch.load(weights_only=True)`` to read ``argparse.Namespace`` and numpy numbers.

    timm's checkpoints contain their command line's arguments, and some of detectron2's checkpoints
    contain numpy scalars.
    """
    safe_globals = getattr(torch.serialization, "safe_globals", None)  # new in PyTorch 2.5
    if safe_globals is None:
        return contextlib.nullcontext()
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return safe_globals([Namespace, np.ndarray, np.dtype, RECONSTRUCT, SCALAR, *dtypes])


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
