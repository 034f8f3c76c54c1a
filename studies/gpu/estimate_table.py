"""The table of estimated times on GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from lambda_det.records import provenance

_REMARK = (
    "Microseconds, **estimated and not measured**; in brackets the roofline of the same sums. Each "
    "launch takes as long as the slowest of its products at the peak rate, its loads at an assumed "
    "5 TB/s of the second-level cache, and its tensors, each once, at the rate of the memory. A "
    "launch itself costs nothing here. On a GPU it costs some microseconds, unless a CUDA graph "
    "replays it, and the small shapes are bound by that: the launches are those of PyTorch's "
    "operators and of the kernels, forward + backward."
)


def text_table(rows: Sequence[Mapping]) -> str:
    """Format the rows for a terminal."""
    return tabulate(_lines(rows), headers="keys", tablefmt="rounded_outline")


def estimates_table(record: Mapping) -> str:
    """Format the record in Markdown: a line for each shape, the passes of each GPU as columns."""
    table = tabulate(_lines(record["rows"]), headers="keys", tablefmt="pipe")
    return f"{table}\n\n{_REMARK}\n\n{provenance(record)}"


def _lines(rows: Sequence[Mapping]) -> list[dict[str, str]]:
    lines: dict[tuple, dict[str, str]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("stage", "images", "height", "width", "channels"))
        size = f"{row['images']}×{row['height']}×{row['width']}"
        line = lines.setdefault(
            key, {"layer in": row["stage"], "N×H×W": size, "v": str(row["channels"])}
        )
        if row["gpu"] == rows[0]["gpu"]:  # the same on every GPU
            both = (line.get("launches"), str(row["launches"]))
            line["launches"] = " + ".join(filter(None, both))
        cell = f"{row['estimated_us']:.0f} ({row['roofline_us']:.0f})"
        line[f"{row['gpu']}, {row['pass']}"] = cell
    return list(lines.values())
