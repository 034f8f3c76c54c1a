"""A pickle reader that admits numpy arrays and plain containers, and runs nothing else."""

from __future__ import annotations

import codecs
import collections
import pickle
from collections.abc import Callable
from typing import BinaryIO

import numpy as np


class ForbiddenName(pickle.UnpicklingError):
    """A file names code. The text of the error is that name."""


# numpy moved these from numpy.core to numpy._core; files name either.
RECONSTRUCT = np.zeros(1).__reduce__()[0]
SCALAR = np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]


def _shielded(function: Callable) -> object:
    """Something that calls the function and has no attribute that a pickle could set.

    A pickle may set attributes of whatever it names, and numpy's functions are this process's.
    """

    class Shield:
        __slots__ = ()

        def __call__(self, *arguments: object) -> object:
            return function(*arguments)

    return Shield()


def _encode(text: str, codec: str = "utf-8") -> bytes:
    """Bytes of a pickle of protocols 0 to 2; other codecs compress, or look up modules."""
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
    "_codecs.encode": _shielded(_encode),  # how protocols 0 to 2 write bytes
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytearray, complex)
    },
}
"""Name in a pickle -> what it stands for. None of them runs code of the file's choice.

Neither can a file change one of them.
"""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        if full_name not in _ALLOWED:
            raise ForbiddenName(full_name)
        return _ALLOWED[full_name]

    def persistent_load(self, pid: object) -> object:
        raise ForbiddenName("a storage of PyTorch outside a PyTorch file")


def load_numpy_pickle(file: BinaryIO) -> object:
    """The content of a pickle of numpy arrays, as of the detectron2 model zoo.

    Raises:
        ForbiddenName: it names anything else; nothing was called.
        Exception: damaged bytes raise whatever they happen to mean.
    """
    return _Unpickler(file, encoding="latin1").load()  # Python 2 wrote the oldest of them
