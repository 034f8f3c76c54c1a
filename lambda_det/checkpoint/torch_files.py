"""The files of ``torch.save``, read by the restricted unpickler.

``torch.load`` is not used: with ``weights_only=True`` it refuses a file for every name that it does
not know, and versions before 2.6 have a hole in it (CVE-2025-32434).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Collection
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from lambda_det.checkpoint.restricted_pickle import load_pickle, shielded
from lambda_det.checkpoint.stand_ins import StandIn, stand_in_class
from lambda_det.errors import InputError

_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip


class Storage(NamedTuple):
    """The memory of tensors: its bytes, and the type of the numbers in it."""

    data: Tensor
    dtype: torch.dtype


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    data, dtype = storage
    data.view(dtype).as_strided(size, stride, offset)  # raises where it ends after its memory
    return torch.empty(0, dtype=dtype).set_(data.untyped_storage(), offset, size, stride)


def _tensor_with_type(storage: Storage, offset, size, stride, grad, hooks, dtype, *_) -> Tensor:
    return _tensor(Storage(storage.data, dtype), offset, size, stride)


def _first(tensor: object, *_: object) -> object:
    return tensor


def _in_type(data: object, dtype: torch.dtype, *_: object) -> Tensor:
    return torch.as_tensor(data).to(dtype)


def _from_type(rebuild: object, kind: object, arguments: tuple, state: object = None) -> object:
    """A tensor of a subclass, or with attributes of its own, which are left out."""
    if not isinstance(rebuild, type):
        return rebuild(*arguments)
    found = kind(*arguments) if isinstance(kind, type) else StandIn(*arguments)
    found.state = state
    return found


TORCH_NAMES: dict[str, object] = {
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
    **{
        f"torch.{name}": value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype)
    },
    "torch.Size": shielded(torch.Size),
    "torch.device": shielded(torch.device),
    "torch.Tensor": stand_in_class("torch.Tensor"),
    "torch.nn.parameter.Parameter": stand_in_class("torch.nn.parameter.Parameter"),
    "torch._utils._rebuild_tensor": shielded(_tensor),
    "torch._utils._rebuild_tensor_v2": shielded(_tensor),
    "torch._utils._rebuild_tensor_v3": shielded(_tensor_with_type),
    "torch._utils._rebuild_parameter": shielded(_first),
    "torch._utils._rebuild_parameter_with_state": shielded(_first),
    "torch._utils._rebuild_device_tensor_from_numpy": shielded(_in_type),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": shielded(_in_type),
    "torch._utils._rebuild_xla_tensor": shielded(_in_type),
    "torch.storage._load_from_bytes": shielded(lambda data: _storage_in_a_pickle(data)),
    "torch._tensor._rebuild_from_type": shielded(_from_type),
    "torch._tensor._rebuild_from_type_v2": shielded(_from_type),
}


class _Storages:
    """The storages that a file's persistent ids name, each made once by ``make``."""

    def __init__(self, make: Callable[[str, int], Tensor]) -> None:
        self._make, self.by_key = make, {}

    def __call__(self, pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":  # with its source
            return pid[1]
        word, dtype, key, _location, count, *view = pid
        if isinstance(dtype, type) and issubclass(dtype, StandIn):  # of quantised numbers
            return dtype()
        if word != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise ValueError("a persistent id that is no storage")
        size = int(count) * dtype.itemsize
        if key not in self.by_key:
            self.by_key[key] = self._make(str(key), size)
        if len(self.by_key[key]) != size:
            raise ValueError(f"the storage {key} has two sizes")
        return Storage(self.by_key[key], dtype)


def read_zip(path: str, unknown: list[str] | None) -> object:
    """Read a file of ``torch.save`` of PyTorch 1.6 and later.

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
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if "data.pkl" not in records:
            raise InputError(f"{path}: is a zip archive, but no checkpoint of PyTorch")
        for info in records.values():
            if not info.CRC:  # left out by torch.serialization.set_crc32_options(False)
                del info.CRC
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise ValueError("it was written on a big-endian machine")

        def read(key: str, size: int) -> Tensor:
            info = records[f"data/{key}"]
            if info.file_size != size:
                raise ValueError(f"the storage {key} has {info.file_size} bytes, not {size}")
            data = torch.empty(size, dtype=torch.uint8)
            with archive.open(info) as record:
                _fill(data, record)
            return data

        pickled = io.BytesIO(archive.read(records["data.pkl"]))
        return load_pickle(pickled, TORCH_NAMES, unknown=unknown, storage=_Storages(read))


def read_legacy(path: str, unknown: list[str] | None) -> object:
    """Read a file of ``torch.save`` before PyTorch 1.6; arguments and errors as in read_zip."""
    with open(path, "rb") as file:
        return _legacy(file, unknown)


def _legacy(file: BinaryIO, unknown: list[str] | None) -> object:
    limit = file.seek(0, io.SEEK_END)
    file.seek(0)

    def reserve(key: str, size: int) -> Tensor:
        if size > limit:
            raise ValueError(f"the storage {key} is larger than the file")
        return torch.empty(size, dtype=torch.uint8)

    for _ in ("magic number", "version", "the machine"):
        load_pickle(file)
    storages = _Storages(reserve)
    content = load_pickle(file, TORCH_NAMES, unknown=unknown, storage=storages)
    keys = load_pickle(file)
    _fill_all(storages.by_key, keys, file)
    return content


def _storage_in_a_pickle(data: bytes) -> object:
    """``torch.storage._load_from_bytes``, by which tensors are in a pickle of ``pickle.dump``."""
    return _legacy(io.BytesIO(data), None)


def _fill_all(storages: dict, keys: Collection[object], file: BinaryIO) -> None:
    if set(storages) - set(keys):
        raise EOFError("storages are missing")
    for key in keys:
        file.seek(struct.calcsize("<q"), io.SEEK_CUR)  # the number of numbers, known already
        _fill(storages[key], file)


def _fill(data: Tensor, file: BinaryIO) -> None:
    if len(data) and file.readinto(memoryview(data.numpy())) != len(data):
        raise EOFError("it ends in the middle of a tensor")
