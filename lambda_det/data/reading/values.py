"""Checks of single values of a JSON file, and how an error message shows a value."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Container, Sequence

from lambda_det.errors import InputError

_MAX = sys.float_info.max


def is_finite(value: object) -> bool:
    """Whether ``value`` is a number, not a bool, that a float can hold (an integer may not fit)."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX <= value <= _MAX
    )


def whole(value: object) -> int | None:
    """The whole number that a value is or names (``7``, ``7.0``, ``"7"``); else None."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        try:
            return int(value)
        except ValueError:  # "+-7", or more digits than Python converts
            return None
    return None


def shown(value: object) -> str:
    """``repr(value)``, shortened where it is long."""
    return reprlib.repr(value)


def id_order(value: int | str) -> tuple[bool, int | str]:
    """Key that sorts ids of which some may be text: numbers come first."""
    return isinstance(value, str), value


def is_in(key: object, known: Container) -> bool:
    """``key in known``, without an error for a list or object, and without taking True for 1."""
    try:
        return not isinstance(key, bool) and key in known
    except TypeError:  # a list or an object is not hashable
        return False


def check_entry(file: str, section: str, index: int, entry: object, keys: Sequence[str]) -> dict:
    """Return ``entry`` if it is a dict with all ``keys``, else raise InputError."""
    missing = [k for k in keys if k not in entry] if isinstance(entry, dict) else list(keys)
    if missing:
        raise InputError(
            f"{file}: {section}[{index}] has no {', '.join(missing)} "
            f"(each of {section} needs {', '.join(keys)})"
        )
    return entry  # type: ignore[return-value]


def check_box(where: str, box: object) -> None:
    """Check that a box is a list x, y, width, height of finite numbers, the sides not negative.

    Raises:
        InputError: it is not; the message begins with ``where``.
    """
    if not (
        isinstance(box, list) and len(box) == 4 and all(map(is_finite, box)) and min(box[2:]) >= 0
    ):
        raise InputError(
            f"{where} has bbox {shown(box)}; four finite numbers x, y, width, height are needed, "
            "width and height not negative"
        )
