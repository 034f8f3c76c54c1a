"""The findings as a table for people and as plain data for programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from .findings import OK, PROBLEM, STATUSES, WARNING, Row, worst

SCHEMA = 1
_NARROWEST, _WIDEST = 80, 120


def as_table(rows: Sequence[Row], width: int | None = None) -> str:
    """One line for each row or more, its fix below it, and a last line that sums up.

    Args:
        rows: of :func:`run_checks`.
        width: of the terminal in letters; None = what it says.
    """
    if width is None:
        width = shutil.get_terminal_size().columns
    width = min(max(width, _NARROWEST), _WIDEST)
    status = max(map(len, STATUSES))
    name = max((len(row.name) for row in rows), default=0)
    left = status + name + 4
    lines = []
    for row in rows:
        head = f"{row.status:<{status}}  {row.name:<{name}}  "
        lines += _wrapped(head, row.found, left, width - 8, f"{row.seconds:5.1f} s")
        if row.fix:
            lines += _wrapped(" " * left + "fix: ", row.fix, left + 5, width - 8)
    return "\n".join([*lines, "", summary(rows)])


def summary(rows: Sequence[Row]) -> str:
    """One line: how many checks ended how, and the time of all."""
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    words = [f"{counts[OK]} ok"]
    for status in (WARNING, PROBLEM):
        words.append(f"{counts[status] or 'no'} {status}{'' if counts[status] == 1 else 's'}")
    seconds = sum(row.seconds for row in rows)
    return f"{len(rows)} checks in {seconds:.1f} s: {', '.join(words)}"


def as_data(rows: Sequence[Row]) -> dict[str, object]:
    """``{"schema", "status", "seconds", "findings": [{"name", "status", "found", "fix",
    "seconds"}]}``; the whole's status is the worst of them."""
    return {
        "schema": SCHEMA,
        "status": worst(rows),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "findings": [
            {
                "name": row.name,
                "status": row.status,
                "found": row.found,
                "fix": row.fix,
                "seconds": round(row.seconds, 3),
            }
            for row in rows
        ],
    }


def _wrapped(head: str, text: str, left: int, width: int, end: str = "") -> list[str]:
    # commands and addresses stay whole, so that they can be copied
    first, *rest = textwrap.wrap(
        text, width - left, break_long_words=False, break_on_hyphens=False
    ) or [""]
    line = f"{head}{first}"
    if end:
        line = f"{line:<{width}} {end}"
    return [line.rstrip(), *(" " * left + more for more in rest)]
