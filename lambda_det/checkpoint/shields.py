"""Functions for the names in a pickle, without attributes that it could set."""

from __future__ import annotations

from collections.abc import Callable


class _Shield:
    __slots__ = ()


def shielded(function: Callable) -> object:
    """Return a callable that calls the function and has no attributes.

    A pickle can set attributes of the objects that it refers to. With a function or a class of
    Python such a change would affect the whole process.
    """

    class Shield(_Shield):
        __slots__ = ()

        def __call__(self, *arguments: object) -> object:
            return function(*arguments)

    return Shield()


def is_shielded(value: object) -> bool:
    """Return whether :func:`shielded` has made it."""
    return isinstance(value, _Shield)
