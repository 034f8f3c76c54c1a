"""What a value of a json must be before it is counted with, and how a message shows it."""

from __future__ import annotations

import reprlib
import sys

_MAX = sys.float_info.max


def is_finite(value: object) -> bool:
    """Whether it is a number (no bool) that a float can hold; JSON's integers have no limit."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX <= value <= _MAX
    )


def shown(value: object) -> str:
    """``repr``, cut where it is long."""
    return reprlib.repr(value)
