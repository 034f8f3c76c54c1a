"""Plots by matplotlib, which is an optional dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_det.errors import InputError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of the given size in inches.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib (pip install matplotlib)") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str, *, flag: str = "--plot") -> None:
    """Write a figure to a PNG file.

    Args:
        figure: a figure from :func:`new_figure`.
        path: path of the file.
        flag: the command-line flag that the error message names.

    Raises:
        InputError: the file cannot be written.
    """
    with writing(f"{flag} {path}"):
        figure.savefig(path, format="png", dpi=120)
