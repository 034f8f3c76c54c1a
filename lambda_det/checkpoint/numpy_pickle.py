"""A pickle reader that accepts numpy arrays and plain containers only and runs no other code."""

from __future__ import annotations

import codecs
import collections
import pickle
from collections.abc import Callable
from typing import BinaryIO

import numpy as np


class ForbiddenName(pickle.UnpicklingError):
    """A pickle refers to a class or function that is not allowed; the text is its name."""


# numpy 2 moved these functions from numpy.core to numpy._core. Files contain either name.
RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]


def _shielded(function: Callable) -> object:
    """Return a callable that calls the function and has no attributes.

    A pickle can set attributes of the objects that it refers to. With numpy's own functions such a
    change would affect the whole process.
    """

    class Shield:
        __slots__ = ()

        def __call__(self, *arguments: object) -> object:
            return function(*arguments)

    return Shield()


def _encode(text: str, codec: str = "utf-8") -> bytes:
    """``codecs.encode`` for latin1 only, with which pickles of protocols 0 to 2 store bytes.

    Other codecs can decompress data of any size or import modules.
    """
    if codec != "latin1":
        raise ForbiddenName(f"_codecs.encode to {codec!r:.40}")
    return codecs.encode(text, codec)


_ALLOWED: dict[str, object] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"numpy.{core}.multiarray.{function.__name__}": _shielded(function)
        for core in ("core", "_core")
        for function in (RECONSTRUCT, SCALAR)
    },
    **{f"numpy.{core}.numeric._frombuffer": _shielded(_FROM_BUFFER) for core in ("core", "_core")},
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": _shielded(_encode),
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    },
}
"""Name in a pickle -> object. A file can neither run code nor change the process with them."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        if full_name not in _ALLOWED:
            raise ForbiddenName(full_name)
        return _ALLOWED[full_name]

    def persistent_load(self, pid: object) -> object:
        raise ForbiddenName("a storage of PyTorch outside a PyTorch file")


def load_numpy_pickle(file: BinaryIO) -> object:
    """Read a pickle of numpy arrays, such as the files of detectron2's model zoo.

    Raises:
        ForbiddenName: the pickle refers to another class or function, which was not called.
        Exception: damaged files raise exceptions of many types.
    """
    # Python 2 wrote the oldest files of the model zoo, so strings are decoded as latin1.
    return _Unpickler(file, encoding="latin1").load()
