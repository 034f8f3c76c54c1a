"""The table of what the compiler makes of the GPU's kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from lambda_det.records import provenance


def text_table(rows: Sequence[Mapping]) -> str:
    """Format the rows for a terminal."""
    return tabulate(_cells(rows), headers="keys", tablefmt="rounded_outline")


def kernels_table(record: Mapping) -> str:
    """Format the record in Markdown: a line for each kernel, dtype and number of channels, a column
    for each architecture, and the largest number of all sizes of images."""
    sizes = sorted({size for row in record["rows"] for size in row["shapes"]})
    remark = (
        "Registers of a thread, KiB of shared memory of a program, and bytes that a thread spills; "
        f"the most of these images (N×H×W): {', '.join(sizes).replace('x', '×')}. "
        "Compiled without a GPU; nothing is timed."
    )
    table = tabulate(_cells(record["rows"]), headers="keys", tablefmt="pipe")
    return f"{table}\n\n{remark}\n\n{provenance(record)}"


def _cells(rows: Sequence[Mapping]) -> list[dict[str, object]]:
    lines: dict[tuple, dict[int, list[Mapping]]] = {}
    for row in rows:
        key = (row["kernel"], row["dtype"], row["channels"])
        lines.setdefault(key, {}).setdefault(row["architecture"], []).append(row)
    return [
        dict(zip(("kernel", "dtype", "v"), key, strict=True))
        | {f"sm_{name}": _cell(found) for name, found in sorted(line.items())}
        for key, line in sorted(lines.items())
    ]


def _cell(rows: Sequence[Mapping]) -> str:
    registers, shared, spilled = (
        max(row[name] for row in rows) for name in ("registers", "shared_bytes", "spilled_bytes")
    )
    return f"{registers}, {shared / 1024:.1f} KiB" + (f", {spilled} B spilled" if spilled else "")
