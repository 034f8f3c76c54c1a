"""Where the configs and tools are: in the checkout, or, of an installed wheel, in the package."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_PACKAGE = _PACKAGE / "shipped"  # made by setup.py when it builds a wheel

IN_CHECKOUT = not _IN_PACKAGE.is_dir()
"""Whether the package is imported from a checkout (or an editable installation of one)."""

ROOT = _PACKAGE.parent if IN_CHECKOUT else _IN_PACKAGE
"""The folder that holds ``configs/`` and ``tools/``."""


def results_folder() -> Path:
    """The folder of the records: the checkout's, or ``results/`` in the current folder."""
    return ROOT / "results" if IN_CHECKOUT else Path("results").absolute()


def tool_words(name: str) -> list[str]:
    """How a user starts a tool, in the root of the checkout or anywhere with the wheel.

    Args:
        name: without ``.py``.
    """
    return ["python", f"tools/{name}.py"] if IN_CHECKOUT else ["python", "-m", "lambda_det", name]


def tool_command(name: str, words: Sequence[str]) -> str:
    """:func:`tool_words` with the words behind them, as one would type it."""
    return shlex.join([*tool_words(name), *words])
