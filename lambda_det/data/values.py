"""Checks of single values of a JSON file, and how an error message shows a value."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Container

_MAX = sys.float_info.max


def is_finite(value: object) -> bool:
    """Whether ``value`` is a number, not a bool, that a float can hold (an integer may not fit)."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX <= value <= _MAX
    )


def shown(value: object) -> str:
    """``repr(value)``, shortened where it is long."""
    return reprlib.repr(value)


def is_in(key: object, known: Container) -> bool:
    """``key in known``, without an error for a list or object, and without taking True for 1."""
    try:
        return not isinstance(key, bool) and key in known
    except TypeError:  # a list or an object is not hashable
        return False
