"""Tensors of PyTorch in a pickle, which are made after its file was read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from lambda_det.checkpoint.holders import Holder, LeftOut
from lambda_det.checkpoint.pickled_arrays import ArrayHolder, BufferHolder
from lambda_det.checkpoint.shields import is_shielded, shielded
from lambda_det.checkpoint.stand_ins import StandIn, stand_in_class

_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
_QUANTISED = {"QInt8Storage": 1, "QUInt8Storage": 1, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1,
              "QInt32Storage": 4}  # fmt: skip
"""Class of a storage -> bytes of one of its numbers."""

_LARGEST = 2**48  # more than any memory has; byte counts of such sides stay exact


class Memory:
    """The bytes of a storage, of which the size is known first, and the content at the end."""

    __slots__ = ("data", "size")

    def __init__(self, size: int) -> None:
        self.size, self.data = size, torch.empty(0, dtype=torch.uint8)


class Storage(Holder):
    """The memory of tensors, and the type of the numbers in it."""

    __slots__ = ("dtype", "memory")

    def __init__(self, memory: Memory, dtype: torch.dtype) -> None:
        self.memory, self.dtype = memory, dtype

    def make(self, left_out: LeftOut) -> object:
        return self


def _is_of_numbers(dtype: object) -> bool:
    # What PyTorch knows of a quantised type without its scale is not safe to print.
    return isinstance(dtype, torch.dtype) and not str(dtype).startswith("torch.q")


def _is_natural(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


class TensorHolder(Holder):
    """A part of a storage as a tensor; a part that ends after its storage is refused."""

    __slots__ = ("_conj", "_dtype", "_memory", "_neg", "_view")

    def __init__(self, storage, offset, size, stride, grad=False, hooks=None, flags=None, *_):
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        self._memory, self._dtype = storage.memory, storage.dtype
        if not (isinstance(size, tuple) and isinstance(stride, tuple)) or len(size) != len(stride):
            raise ValueError("a tensor without a shape")
        if len(size) > 64 or not all(map(_is_natural, (offset, *size, *stride))):
            raise ValueError("a tensor with an impossible shape, step or beginning")
        if math.prod(size) * self._dtype.itemsize >= 2**63:
            raise ValueError("a tensor with more numbers than can be counted")
        # The number after the last one, by exact integers of Python.
        steps = sum((side - 1) * step for side, step in zip(size, stride, strict=True))
        if 0 in size:
            offset = 0  # torch.load allows any
        elif (offset + steps + 1) * self._dtype.itemsize > self._memory.size:
            raise ValueError("a tensor ends after its storage")
        self._view = (offset, tuple(size), tuple(stride))
        flags = flags or {}
        known = type(flags) is dict and flags.keys() <= {"conj", "neg"}
        if not known or not all(type(flag) is bool for flag in flags.values()):
            raise ValueError("a tensor with unknown flags")
        self._conj, self._neg = flags.get("conj"), flags.get("neg")

    def make(self, left_out: LeftOut) -> object:
        offset, size, stride = self._view
        if len(self._memory.data) != self._memory.size:  # PyTorch would make it larger
            raise ValueError("a tensor whose storage was not read")
        tensor = torch.empty(0, dtype=self._dtype)
        tensor.set_(self._memory.data.untyped_storage(), offset, size, stride)
        if self._conj or self._neg:
            _refuse_expanded(tensor)
            tensor = tensor.conj().resolve_conj() if self._conj else tensor
            tensor = -tensor if self._neg else tensor
        return tensor


def _refuse_expanded(tensor: Tensor) -> None:
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a copy of an expanded view could need any amount of memory")


def _tensor_with_type(storage, offset, size, stride, grad, hooks, dtype, *flags) -> TensorHolder:
    if not isinstance(storage, Storage) or not _is_of_numbers(dtype):
        raise ValueError("a tensor without a storage or a type")
    return TensorHolder(Storage(storage.memory, dtype), offset, size, stride, grad, hooks, *flags)


class ConvertedHolder(Holder):
    """A tensor of another device, of which the file has an array or a tensor, and its type."""

    __slots__ = ("_dtype", "_source")

    def __init__(self, source: object, dtype: object, *_: object) -> None:
        if not isinstance(source, (TensorHolder, ArrayHolder, BufferHolder)):
            raise ValueError("a tensor of a device without its numbers")
        if not _is_of_numbers(dtype):
            raise ValueError("a tensor of a device without its type")
        self._source, self._dtype = source, dtype

    def inside(self) -> Iterable[object]:
        return (self._source,)

    def make(self, left_out: LeftOut) -> object:
        source = self._source.make(left_out)
        if isinstance(source, np.ndarray):
            source = torch.from_numpy(np.array(source))
        if not isinstance(source, Tensor):
            raise ValueError("a tensor of a device whose numbers are objects or dates")
        _refuse_expanded(source)
        return source.to(self._dtype)


def _first(tensor: object, *_: object) -> object:
    return tensor


def _from_type(rebuild: object, kind: object, arguments: object, state: object = None) -> object:
    """A tensor of a subclass, or with attributes of its own, which are left out."""
    if type(arguments) is not tuple:
        raise ValueError("a tensor without its arguments")
    if is_shielded(rebuild):
        return rebuild(*arguments)
    is_class = isinstance(kind, type) and issubclass(kind, StandIn)
    found = kind(*arguments) if is_class else StandIn(*arguments)
    found.state = state
    return found


def _size(sides: object = ()) -> torch.Size:
    if not isinstance(sides, (tuple, list)) or not all(map(_is_natural, sides)):
        raise ValueError("a size of other things than numbers")
    return torch.Size(sides)


def _device(kind: object, *index: object) -> torch.device:
    if type(kind) is not str or not all(type(each) is int for each in index):
        raise ValueError("a device of another form than 'cuda', 0")
    return torch.device(kind, *index)


STORAGE_NAMES: dict[str, object] = {
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}

TENSOR_NAMES: dict[str, object] = {
    **STORAGE_NAMES,
    **{
        f"torch.{name}": value
        for name, value in vars(torch).items()
        if isinstance(value, torch.dtype)
    },
    "torch.Size": shielded(_size),
    "torch.device": shielded(_device),
    "torch.Tensor": stand_in_class("torch.Tensor"),
    "torch.nn.parameter.Parameter": stand_in_class("torch.nn.parameter.Parameter"),
    "torch._utils._rebuild_tensor": shielded(lambda *view: TensorHolder(*view[:4])),
    "torch._utils._rebuild_tensor_v2": shielded(TensorHolder),
    "torch._utils._rebuild_tensor_v3": shielded(_tensor_with_type),
    "torch._utils._rebuild_parameter": shielded(_first),
    "torch._utils._rebuild_parameter_with_state": shielded(_first),
    "torch._utils._rebuild_device_tensor_from_numpy": shielded(ConvertedHolder),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": shielded(ConvertedHolder),
    "torch._utils._rebuild_xla_tensor": shielded(ConvertedHolder),
    "torch._tensor._rebuild_from_type": shielded(_from_type),
    "torch._tensor._rebuild_from_type_v2": shielded(_from_type),
}


class Storages:
    """The storages that a file's persistent ids name.

    Attributes:
        by_key: key -> the memory, without its content.
        left_out: key -> size in bytes of a storage of quantised numbers, which no tensor is made
            of; None where the type is not known.
    """

    def __init__(self, check: Callable[[str, int], None]) -> None:
        """Create it; ``check`` raises if the file has no storage of a key and size in bytes."""
        self.by_key: dict[str, Memory] = {}
        self.left_out: dict[str, int | None] = {}
        self._check = check

    def __call__(self, pid: object) -> object:
        if type(pid) is not tuple:
            raise ValueError("a persistent id that is no storage")
        if len(pid) > 1 and pid[0] == "module":  # with its source
            return pid[1]
        word, dtype, key, _location, count, *view = pid
        key = str(key) if type(key) is int else key
        if word != "storage" or any(view) or type(key) is not str or not _is_natural(count):
            raise ValueError("a persistent id that is no storage")
        if isinstance(dtype, type) and issubclass(dtype, StandIn):
            size = _QUANTISED.get(dtype.path.rpartition(".")[2])
            self.left_out[key] = None if size is None else count * size
            return dtype()
        if not _is_of_numbers(dtype):
            raise ValueError("a persistent id that is no storage")
        size = count * dtype.itemsize
        if key not in self.by_key:
            self._check(key, size)
            self.by_key[key] = Memory(size)
        if self.by_key[key].size != size:
            raise ValueError(f"the storage {key} has two sizes")
        return Storage(self.by_key[key], dtype)
