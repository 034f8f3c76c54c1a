"""What a value of a json must be before it is counted with, and how a message shows it."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Container

_MAX = sys.float_info.max


def is_finite(value: object) -> bool:
    """Whether it is a number (no bool) that a float can hold; JSON's integers have no limit."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX <= value <= _MAX
    )


def shown(value: object) -> str:
    """``repr``, cut where it is long."""
    return reprlib.repr(value)


def is_in(key: object, known: Container) -> bool:
    """``key in known``, of any value that JSON has; True is no 1."""
    try:
        return not isinstance(key, bool) and key in known
    except TypeError:  # a list for an id
        return False
