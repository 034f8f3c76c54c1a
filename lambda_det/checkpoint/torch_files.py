"""The files of ``torch.save``, read by the restricted unpickler.

``torch.load`` is not used: with ``weights_only=True`` it refuses a file for every name that it does
not know, and versions before 2.6 have a hole in it (CVE-2025-32434).
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from typing import BinaryIO

import torch
from torch import Tensor

from lambda_det.checkpoint.pickled_tensors import (
    STORAGE_NAMES,
    TENSOR_NAMES,
    Storage,
    Storages,
)
from lambda_det.checkpoint.restricted_pickle import finish, run_pickle
from lambda_det.checkpoint.shields import shielded
from lambda_det.errors import InputError, shown

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save before 1.6
_BLOCK = 4 * 2**20
_PICKLE_BYTES = 64 * 2**20  # PyTorch does not compress the pickle
_INFLATION = 1100  # deflate makes nothing smaller than by 1032 times


def read_zip(path: str, unknown: list[str] | None) -> object:
    """Read a file of ``torch.save`` of PyTorch 1.6 and later.

    The sums of the pickle and of each storage that it names are compared; other records, such as
    TorchScript's code, are not read.

    Args:
        path: the file.
        unknown: as in :func:`load_pickle`.

    Raises:
        InputError: it is another zip archive.
        ForbiddenName: ``unknown`` is None, and the file names a class or function that is not
            known.
        Exception: damaged files raise exceptions of many types.
    """
    with zipfile.ZipFile(path) as archive:
        records = _records(path, archive)
        for info in records.values():
            if not info.CRC:  # left out by torch.serialization.set_crc32_options(False)
                del info.CRC
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise ValueError("it was written on a big-endian machine")

        def check(key: str, size: int) -> None:
            info = records[f"data/{key}"]
            if info.file_size != size:
                raise ValueError(f"the storage {key} has {info.file_size} bytes, not {size}")

        storages = Storages(check)
        pickled = io.BytesIO(archive.read(records["data.pkl"]))
        content = run_pickle(pickled, TORCH_NAMES, unknown=unknown, storage=storages)
        for key, memory in storages.by_key.items():
            with archive.open(records[f"data/{key}"]) as record:
                memory.data = _read(memory.size, record)
    return finish(content, unknown)


def _records(path: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the records beside ``data.pkl``, whichever folder they are in, by their names.

    PyTorch's own files have one folder; archives that were unpacked and packed again can have
    none, more, or the other slash.
    """
    members = {info.filename.replace("\\", "/"): info for info in archive.infolist()}
    found = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    least = min((name.count("/") for name in found), default=0)
    found = [name for name in found if name.count("/") == least]
    if len(found) != 1:
        reason = f"{len(found)} files data.pkl" if found else "no file data.pkl"
        names = ", ".join(map(repr, (found or list(members))[:2]))
        raise InputError(
            f"{path}: is a zip archive, but no checkpoint of PyTorch: it has {reason} (first in "
            f"it: {names}); expected one, in one folder with its data"
        )
    packed = sum(info.compress_size for info in members.values())
    if packed > os.path.getsize(path):
        raise ValueError("its records overlap")
    for info in members.values():
        if info.file_size > _INFLATION * (info.compress_size + 1):
            raise ValueError("a record is larger than it can be")
    pickled = members[found[0]]
    if pickled.file_size > max(_PICKLE_BYTES, 20 * pickled.compress_size):
        raise ValueError("its pickle is compressed more than a checkpoint's can be")
    folder = found[0].removesuffix("data.pkl")
    inside = [name for name in members if name.startswith(folder)]
    return {name.removeprefix(folder): members[name] for name in inside}


def read_pickle(path: str, unknown: list[str] | None) -> object:
    """Read a pickle, or a file of ``torch.save`` before PyTorch 1.6, which is several pickles.

    Arguments and errors as in :func:`read_zip`.
    """
    with open(path, "rb") as file:
        content = run_pickle(file, TORCH_NAMES, unknown=unknown)
        if type(content) is int and content == _MAGIC_NUMBER:
            content = _run_legacy(file, TORCH_NAMES, unknown)
    return finish(content, unknown)


def _run_legacy(file: BinaryIO, names: dict[str, object], unknown: list[str] | None) -> object:
    """Run the pickles after the magic number, and read the storages."""
    here = file.tell()
    available = file.seek(0, io.SEEK_END)
    file.seek(here)

    def check(key: str, size: int) -> None:
        nonlocal available
        available -= size
        if available < 0:
            raise ValueError(f"the storage {key} is larger than the file")

    for _ in ("version", "the machine"):
        run_pickle(file, {})
    storages = Storages(check)
    content = run_pickle(file, names, unknown=unknown, storage=storages)
    keys = run_pickle(file, {})
    if type(keys) is not list or not all(type(key) in (str, int) for key in keys):
        raise ValueError("the names of its storages are no text")
    if not storages.by_key.keys() <= set(keys):
        raise EOFError("storages are missing")
    for key in keys:
        file.seek(struct.calcsize("<q"), io.SEEK_CUR)  # the number of numbers, known already
        if key in storages.by_key:
            memory = storages.by_key[key]
            memory.data = _read(memory.size, file)
        elif (size := storages.left_out.get(key)) is not None:
            file.seek(size, io.SEEK_CUR)
        else:
            raise ValueError(f"the storage {shown(key)} has an unknown size")
    return content


def _storage_in_a_pickle(data: object) -> Storage:
    """``torch.storage._load_from_bytes``, by which tensors are in a pickle of ``pickle.dump``."""
    if type(data) is not bytes:
        raise ValueError("a storage of other things than bytes")
    file = io.BytesIO(data)
    if run_pickle(file, {}) != _MAGIC_NUMBER:
        raise ValueError("a storage of another form")
    content = _run_legacy(file, STORAGE_NAMES, None)
    if not isinstance(content, Storage):
        raise ValueError("a storage of another form")
    return content


TORCH_NAMES: dict[str, object] = {
    **TENSOR_NAMES,
    "torch.storage._load_from_bytes": shielded(_storage_in_a_pickle),
}


def _read(size: int, file: BinaryIO) -> Tensor:
    """Read bytes, in blocks, because a record of an archive copies what it is asked for."""
    data = torch.empty(size, dtype=torch.uint8)
    rest = memoryview(data.numpy())
    while len(rest):
        count = file.readinto(rest[:_BLOCK])
        if not count:
            raise EOFError("it ends in the middle of a tensor")
        rest = rest[count:]
    return data
