"""The one reader of pickles: it knows numpy arrays and plain containers by name, and runs no code.

What a file can do with its names, and why that is nothing, stands in docs/security.md.
"""

from __future__ import annotations

import codecs
import collections
import math
import pickle
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

import numpy as np

from lambda_det.checkpoint.stand_ins import StandIn, stand_in_class


class ForbiddenName(pickle.UnpicklingError):
    """A pickle refers to a class or function that is not allowed; the text is its name."""


def shielded(function: Callable) -> object:
    """Return a callable that calls the function and has no attributes.

    A pickle can set attributes of the objects that it refers to. With a function or a class of
    Python such a change would affect the whole process.
    """

    class Shield:
        __slots__ = ()

        def __call__(self, *arguments: object) -> object:
            return function(*arguments)

    return Shield()


class _DType:
    """A ``numpy.dtype`` of a pickle. Only its text is used.

    The state of numpy's own dtype can claim that bytes are pointers to objects.
    """

    __slots__ = ("_order", "_text")

    def __init__(self, text: object = "", *_: object) -> None:
        self._text, self._order = text, "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self._order = state[1]

    def plain(self) -> np.dtype | None:
        """Return the type of numbers, text or objects; None for structures and dates."""
        text = self._text if isinstance(self._text, str) else ""
        if not re.fullmatch(r"[biufcSUO]\d{0,9}|\?", text):
            return None
        return np.dtype(self._order + text)


class _Array(np.ndarray):
    """An array of a pickle. One of structures or dates stays empty; it cannot be weights."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, is_fortran, data = state
        plain = dtype.plain() if isinstance(dtype, _DType) else None
        if plain is None:
            return
        if plain.hasobject and len(data) != math.prod(shape):  # numpy does not compare them
            raise ValueError("an array of objects has another size than its list")
        super().__setstate__((version, shape, plain, is_fortran, data))


def _reconstruct(*_: object) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _from_buffer(data: object, dtype: object, shape: object, order: object = "C") -> np.ndarray:
    plain = dtype.plain() if isinstance(dtype, _DType) else None
    if plain is None or plain.hasobject:
        return _reconstruct()
    return np.frombuffer(data, plain).reshape(shape, order=order)


def _scalar(dtype: object, data: object = b"") -> object:
    plain = dtype.plain() if isinstance(dtype, _DType) else None
    if plain is None or plain.hasobject:
        return None
    # Python 2 wrote bytes as text.
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, plain)[0]


def _encode(text: str, codec: str = "utf-8") -> bytes:
    """``codecs.encode`` for latin1 only, with which pickles of protocols 0 to 2 store bytes.

    Other codecs can decompress data of any size or import modules.
    """
    if codec != "latin1":
        raise ForbiddenName(f"_codecs.encode to {codec!r:.40}")
    return codecs.encode(text, codec)


def _is_stand_in_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, StandIn)


def _object(cls: object = None, *_: object) -> object:
    """``copyreg._reconstructor``, by which protocols 0 and 1 construct objects."""
    return cls() if _is_stand_in_class(cls) else StandIn()


def _attribute(owner: object = None, name: object = "", *_: object) -> object:
    """``getattr``, by which protocols 0 to 3 name a class inside a class; it gets nothing."""
    return stand_in_class(f"{owner.path}.{name}") if _is_stand_in_class(owner) else StandIn()


# numpy 2 moved these functions from numpy.core to numpy._core. Files contain either name.
_NAMES: dict[str, object] = {
    "numpy.ndarray": stand_in_class("numpy.ndarray"),
    "numpy.dtype": shielded(_DType),
    **{
        f"numpy.{core}.{name}": shielded(function)
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _reconstruct,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _from_buffer,
        }.items()
    },
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": shielded(collections.Counter),
    "_codecs.encode": shielded(_encode),
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    },
    "copyreg._reconstructor": shielded(_object),
    "copy_reg._reconstructor": shielded(_object),
    "builtins.getattr": shielded(_attribute),
    "__builtin__.getattr": shielded(_attribute),
    "builtins.object": stand_in_class("object"),
    "__builtin__.object": stand_in_class("object"),
    "argparse.Namespace": stand_in_class("argparse.Namespace"),
}
"""Name in a pickle -> object. A file can neither run code nor change the process with them."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, names: dict, unknown: list[str] | None, storage) -> None:
        # Python 2 wrote the oldest files, so strings are decoded as latin1.
        super().__init__(file, encoding="latin1")
        self._names, self._unknown, self._storage = names, unknown, storage

    def find_class(self, module: str, name: str) -> object:
        """Return the object of exactly this name, or a class of stand-ins."""
        full_name = f"{module}.{name}"
        if full_name not in self._names:
            if self._unknown is None:
                raise ForbiddenName(full_name)
            self._unknown.append(full_name)
            self._names[full_name] = stand_in_class(full_name)
        return self._names[full_name]

    def persistent_load(self, pid: object) -> object:
        """Return the storage of a persistent id of PyTorch."""
        if self._storage is None:
            raise ForbiddenName("a storage of PyTorch outside a PyTorch file")
        return self._storage(pid)


def load_pickle(
    file: BinaryIO,
    names: Mapping[str, object] | None = None,
    *,
    unknown: list[str] | None = None,
    storage: Callable[[object], object] | None = None,
) -> object:
    """Read a pickle without importing or calling what it names.

    Args:
        file: the open file; it is read as far as the pickle.
        names: objects for names beside those of numpy and of plain containers.
        unknown: takes the names that are in neither, each once, whose objects become
            :class:`StandIn`; None = such a name is an error.
        storage: takes the persistent ids.

    Raises:
        ForbiddenName: ``unknown`` is None, and the pickle refers to another class or function.
        Exception: damaged files raise exceptions of many types.
    """
    return _Unpickler(file, {**_NAMES, **(names or {})}, unknown, storage).load()
