"""Arrays, numbers and types of numpy in a pickle, which are made after the pickle has ended."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable

import numpy as np

from lambda_det.checkpoint.holders import Holder, LeftOut

_LARGEST = 2**48  # more than any memory has; the products of such sides stay exact
_OTHERS = {"M": "numpy.datetime64", "m": "numpy.timedelta64"}


class DTypeHolder(Holder):
    """A ``numpy.dtype``. Of it only the text and the order of bytes are used.

    The state of numpy's own dtype can claim that bytes are pointers to objects.
    """

    __slots__ = ("_order", "_text")

    def __init__(self, text: object = "", *_: object) -> None:
        self._text = text if type(text) is str else ""
        self._order = "="

    def __setstate__(self, state: object) -> None:
        if type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self._order = state[1]

    def plain(self) -> np.dtype | None:
        """Return the type of numbers, text or objects; None for structures and dates."""
        if not re.fullmatch(r"[biufcSUO]\d{0,9}|\?", self._text):
            return None
        return np.dtype(self._order + self._text)

    def kind(self) -> str:
        """Return the name of a type that is not plain."""
        return _OTHERS.get(self._text[:1], "numpy.void")

    def make(self, left_out: LeftOut) -> object:
        plain = self.plain()
        return left_out(self.kind()) if plain is None else plain


def _type(dtype: object) -> DTypeHolder:
    if not isinstance(dtype, DTypeHolder):
        raise ValueError("an array without a type of numbers")
    return dtype


def _sides(shape: object) -> tuple[int, ...]:
    sides = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(side) is int and 0 <= side < _LARGEST for side in sides) or len(sides) > 32:
        raise ValueError("an array with an impossible shape")
    if math.prod(max(side, 1) for side in sides) >= _LARGEST:  # also if it is empty
        raise ValueError("an array with an impossible shape")
    return sides


def _checked(array: np.ndarray) -> np.ndarray:
    """Return an array if its text, if it is one, consists of characters."""
    if array.dtype.kind == "U":
        codes = np.frombuffer(array.tobytes(), array.dtype.byteorder.replace("|", "=") + "u4")
        if codes.size and codes.max() > sys.maxunicode:
            raise ValueError("an array of text with impossible characters")
    return array


def _bytes(data: object) -> bytes | bytearray:
    if type(data) is str:  # Python 2 wrote bytes as text
        return data.encode("latin1")
    if type(data) not in (bytes, bytearray):
        raise ValueError("an array without its bytes")
    return data


class ArrayHolder(Holder):
    """A ``numpy.ndarray``: its state is set once."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: tuple | None = None

    def __setstate__(self, state: object) -> None:
        if self._state is None and type(state) is tuple and len(state) == 5:
            self._state = state

    def inside(self) -> Iterable[object]:
        return self._state[4:] if self._state and type(self._state[4]) is list else ()

    def make(self, left_out: LeftOut) -> object:
        if self._state is None:
            raise ValueError("an array without its state")
        _, shape, dtype, is_fortran, data = self._state
        plain, sides = _type(dtype).plain(), _sides(shape)
        if plain is None:
            return left_out(_type(dtype).kind())
        if plain.hasobject:
            if type(data) is not list or len(data) != math.prod(sides):
                raise ValueError("an array of objects has another size than its list")
            return []
        data = _bytes(data)
        if not plain.itemsize or len(data) != math.prod(sides) * plain.itemsize:
            raise ValueError("an array has another size than its bytes")
        array = np.ndarray((0,), np.int8)
        array.__setstate__((1, sides, plain, bool(is_fortran), bytes(data)))
        return _checked(array)

    def fill(self, made: object, finished: Callable[[object], object]) -> None:
        if type(made) is list and self._state is not None:
            made.extend(map(finished, self._state[4]))


class BufferHolder(Holder):
    """An array of protocol 5, which has a buffer for its bytes."""

    __slots__ = ("_data", "_dtype", "_order", "_shape", "_swapped")

    def __init__(self, data, dtype, shape, order="C", swapped=None, *_: object) -> None:
        self._data, self._dtype, self._shape = data, dtype, shape
        self._order, self._swapped = order, swapped

    def make(self, left_out: LeftOut) -> object:
        plain, sides, data = _type(self._dtype).plain(), _sides(self._shape), _bytes(self._data)
        if plain is None:
            return left_out(_type(self._dtype).kind())
        if plain.hasobject or not plain.itemsize:
            raise ValueError("an array of objects in a buffer")
        if len(data) != math.prod(sides) * plain.itemsize:
            raise ValueError("an array has another size than its bytes")
        array = _checked(np.frombuffer(data, plain))
        if self._order == "K" and self._swapped is not None:
            axes = _sides(self._swapped)
            return array.reshape(sides).transpose(axes)
        return array.reshape(sides, order="F" if self._order == "F" else "C")


class ScalarHolder(Holder):
    """A number or a text of numpy."""

    __slots__ = ("_data", "_dtype")

    def __init__(self, dtype: object, data: object = b"", *_: object) -> None:
        self._dtype, self._data = dtype, data

    def inside(self) -> Iterable[object]:
        return ()

    def make(self, left_out: LeftOut) -> object:
        plain = _type(self._dtype).plain()
        if plain is None:
            return left_out(_type(self._dtype).kind())
        if plain.hasobject:
            return None
        data = _bytes(self._data)
        if len(data) != plain.itemsize:
            raise ValueError("a number has another size than its bytes")
        return np.frombuffer(data, plain)[0] if data else plain.type()


def reconstructed(*_: object) -> ArrayHolder:
    """``numpy.core.multiarray._reconstruct``: an array whose state follows."""
    return ArrayHolder()
