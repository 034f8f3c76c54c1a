"""The one reader of pickles: it knows numpy arrays and plain containers by name, and runs no code.

What a file can do with its names, and why that is nothing, stands in docs/security.md.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import BinaryIO

from lambda_det.checkpoint.holders import CounterHolder, OrderedDictHolder, finished
from lambda_det.checkpoint.pickled_arrays import (
    BufferHolder,
    DTypeHolder,
    ScalarHolder,
    reconstructed,
)
from lambda_det.checkpoint.shields import shielded
from lambda_det.checkpoint.stand_ins import StandIn, stand_in_class
from lambda_det.errors import shown


class ForbiddenName(pickle.UnpicklingError):
    """A pickle refers to a class or function that is not allowed; the text is its name."""


def _encode(text: object, codec: object = "utf-8") -> bytes:
    """``codecs.encode`` for latin1 only, with which pickles of protocols 0 to 2 store bytes.

    Other codecs can decompress data of any size or import modules.
    """
    if type(text) is not str or type(codec) is not str or codec != "latin1":
        raise ForbiddenName(f"_codecs.encode to {shown(codec)}")
    return text.encode(codec)


def _bytearray(data: object = b"", codec: object = "latin-1") -> bytearray:
    """``bytearray`` of bytes; of a number it would be zeros, as many as the file likes."""
    if type(data) is str and codec == "latin-1":  # of protocols 0 to 2
        return bytearray(data, "latin-1")
    if type(data) not in (bytes, bytearray):
        raise ValueError("a bytearray of other things than bytes")
    return bytearray(data)


def _complex(real: object = 0.0, imaginary: object = 0.0) -> complex:
    if type(real) not in (int, float) or type(imaginary) not in (int, float):
        raise ValueError("a complex number of other things than numbers")
    return complex(real, imaginary)


def _is_stand_in_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, StandIn)


def _object(cls: object = None, *_: object) -> object:
    """``copyreg._reconstructor``, by which protocols 0 and 1 construct objects."""
    return cls() if _is_stand_in_class(cls) else StandIn()


def _attribute(owner: object = None, name: object = "", *_: object) -> object:
    """``getattr``, by which protocols 0 to 3 name a class inside a class; it gets nothing."""
    if not _is_stand_in_class(owner) or type(name) is not str:
        return StandIn()
    return stand_in_class(f"{owner.path}.{name}")


# numpy 2 moved these functions from numpy.core to numpy._core. Files contain either name.
_NAMES: dict[str, object] = {
    "numpy.ndarray": stand_in_class("numpy.ndarray"),
    "numpy.dtype": shielded(DTypeHolder),
    **{
        f"numpy.{core}.{name}": shielded(function)
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": reconstructed,
            "multiarray.scalar": ScalarHolder,
            "numeric._frombuffer": BufferHolder,
        }.items()
    },
    "collections.OrderedDict": shielded(OrderedDictHolder),
    "collections.Counter": shielded(CounterHolder),
    "_codecs.encode": shielded(_encode),
    **{
        f"{module}.{name}": shielded(function)
        for module in ("builtins", "__builtin__")
        for name, function in {
            "set": set,
            "frozenset": frozenset,
            "bytearray": _bytearray,
            "complex": _complex,
        }.items()
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


def run_pickle(
    file: BinaryIO,
    names: Mapping[str, object],
    *,
    unknown: list[str] | None = None,
    storage: Callable[[object], object] | None = None,
) -> object:
    """Run a pickle; arguments as :func:`load_pickle`.

    Returns:
        its content with a holder for each array, tensor and ordered dict, for :func:`finish`.
    """
    return _Unpickler(file, {**_NAMES, **names}, unknown, storage).load()


def finish(content: object, unknown: list[str] | None) -> object:
    """Make the arrays, tensors and ordered dicts of a pickle that was run.

    Args:
        content: what :func:`run_pickle` returned.
        unknown: as in :func:`load_pickle`; it takes the kinds of arrays that are left out too.
    """

    def left_out(name: str) -> object:
        if unknown is None:
            raise ForbiddenName(name)
        if name not in unknown:
            unknown.append(name)
        return stand_in_class(name)()

    return finished(content, left_out)


def load_pickle(
    file: BinaryIO,
    names: Mapping[str, object] | None = None,
    *,
    unknown: list[str] | None = None,
) -> object:
    """Read a pickle without importing or calling what it names.

    Args:
        file: the open file; it is read as far as the pickle.
        names: objects for names beside those of numpy and of plain containers.
        unknown: takes the names that are in neither, each once, whose objects become
            :class:`StandIn`; None = such a name is an error. Arrays of dates and of structures
            count among them.

    Raises:
        ForbiddenName: ``unknown`` is None, and the pickle refers to another class or function.
        Exception: damaged files raise exceptions of many types.
    """
    return finish(run_pickle(file, names or {}, unknown=unknown), unknown)
