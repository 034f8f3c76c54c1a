"""Pictures of the benchmarks, drawn by matplotlib where it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lambda_det.errors import InputError, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sides in inches.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("pictures need matplotlib (pip install matplotlib)") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str, *, flag: str = "--plot") -> None:
    """Write a PNG.

    Args:
        figure: of :func:`new_figure`.
        path: of the file.
        flag: of the command line, for the message.

    Raises:
        InputError: it cannot be written.
    """
    with writing(f"{flag} {path}"):
        figure.savefig(path, format="png", dpi=120)
