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
    """The lines of the table; dtypes of which all cells are equal share one."""
    lines: dict[tuple, dict[int, list[Mapping]]] = {}
    for row in rows:
        key = (row["kernel"], row["channels"], row["dtype"])
        lines.setdefault(key, {}).setdefault(row["architecture"], []).append(row)
    dtypes: dict[tuple, list[str]] = {}
    for (kernel, channels, dtype), line in sorted(lines.items()):
        cells = tuple((f"sm_{name}", _cell(found)) for name, found in sorted(line.items()))
        dtypes.setdefault((kernel, channels, cells), []).append(dtype)
    return [
        {"kernel": kernel, "v": channels, "dtype": ", ".join(names), **dict(cells)}
        for (kernel, channels, cells), names in dtypes.items()
    ]


def _cell(rows: Sequence[Mapping]) -> str:
    registers, shared, spilled = (
        max(row[name] for row in rows) for name in ("registers", "shared_bytes", "spilled_bytes")
    )
    return f"{registers}, {shared / 1024:.1f} KiB" + (f", {spilled} B spilled" if spilled else "")
