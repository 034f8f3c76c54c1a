"""Tables and a plot of the benchmark of backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from lambda_det.records import provenance
from studies.benchmarks.backbone_forms import BASELINE, MODELS
from studies.plots import new_figure, save_figure

_STEPS = {"train": "train step", "inference": "inference"}


def text_tables(rows: Sequence[Mapping]) -> str:
    """Format the rows for a terminal, with a table for each group of :func:`by_depth`."""
    return "\n\n".join(
        f"{title(group[0])}\n" + tabulate(_cells(group), _headers(group), "rounded_outline")
        for group in by_depth(rows)
    )


def backbones_table(record: Mapping) -> str:
    """Format the record in Markdown, with a table for each group of :func:`by_depth`."""
    parts = [
        f"**{title(group[0])}**\n\n" + tabulate(_cells(group), _headers(group), "pipe")
        for group in by_depth(record["rows"])
    ]
    return "\n\n".join([*parts, provenance(record)])


def by_depth(rows: Sequence[Mapping]) -> list[list[Mapping]]:
    """Group rows that were measured in turns; the order of the rows stays the same."""
    names = ("depth", "height", "width", "batch", "device", "dtype", "channels_last", "threads")
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return list(groups.values())


def title(row: Mapping) -> str:
    """Describe the settings that a row was measured with."""
    threads = f", {row['threads']} threads" if "threads" in row and row["device"] == "cpu" else ""
    layout = ", channels last" if row["channels_last"] else ""
    return (
        f"Depth {row['depth']} with FPN, {row['batch']} × 3 × {row['height']} × {row['width']}, "
        f"{row['dtype']}{layout}, {row['device']}{threads}"
    )


def _baseline(depth: int) -> str:
    return MODELS[BASELINE].label.format(depth)


def _headers(group: Sequence[Mapping]) -> list[str]:
    headers = ["model"]
    for step in _STEPS.values():
        headers += [
            f"{step}, ms (quartiles)", "images/s", f"÷ {_baseline(group[0]['depth'])} (quartiles)",
        ]  # fmt: skip
    return [*headers, "turns", *(name for name, _ in _memory_columns(group))]


def _memory_columns(group: Sequence[Mapping]) -> list[tuple[str, str]]:
    """Headers and row keys of the memory: the peak if it was measured, else what autograd keeps."""
    if any(row.get("train_peak_mib") is not None for row in group):
        names = [(f"{label}, peak MiB", f"{step}_peak_mib") for step, label in _STEPS.items()]
        return names
    return [("kept for the backward pass, MiB", "saved_mib")]


def _cells(group: Sequence[Mapping]) -> list[list[str]]:
    lines = []
    for row in group:
        if "train_ms" not in row:
            lines.append([row["label"], row.get("note", "not measured")])
            continue
        cells = [row["label"]]
        for step in _STEPS:
            ms, first, third = (row[f"{step}{name}_ms"] for name in ("", "_q1", "_q3"))
            ratio, low, high = (row[f"{step}_ratio{name}"] for name in ("", "_q1", "_q3"))
            cells += [
                f"{ms:.0f} ({first:.0f} to {third:.0f})",
                f"{row[f'{step}_images_per_s']:.2f}",
                "1" if row["model"] == BASELINE else f"{ratio:.2f} ({low:.2f} to {high:.2f})",
            ]
        lines.append([*cells, str(row["train_runs"])])
        lines[-1] += [_memory(row.get(name)) for _, name in _memory_columns(group)]
    return lines


def _memory(mib: float | None) -> str:
    return "–" if mib is None else f"{mib:.0f}"


def plot(rows: Sequence[Mapping], path: str) -> None:
    """Plot the time of an image in training and inference, and the memory; a row for each depth.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    groups = by_depth([row for row in rows if "train_ms" in row])
    most = max(map(len, groups), default=1)
    lines = max(1, len(groups))
    figure = new_figure(13, (0.4 * most + 1.2) * lines)
    axes = figure.subplots(lines, 3, squeeze=False)
    for line, group in zip(axes, groups, strict=False):
        names = [row["label"] for row in group]
        for axis, (step, label) in zip(line, _STEPS.items(), strict=False):
            _times(axis, group, step)
            axis.set_xlabel(f"{label}, ms per image (line: quartiles)")
        header, name = _memory_columns(group)[0]
        line[2].barh(range(len(group)), [row.get(name) or 0 for row in group], color="tab:gray")
        line[2].set_xlabel(header)
        for axis in line:
            axis.set_yticks(range(len(group)), names, fontsize=8)
            axis.invert_yaxis()
        line[0].set_title(title(group[0]), fontsize=9, loc="left")
    save_figure(figure, path)


def _times(axis, group: Sequence[Mapping], step: str) -> None:
    middle = [row[f"{step}_ms"] / row["batch"] for row in group]
    low = [(row[f"{step}_ms"] - row[f"{step}_q1_ms"]) / row["batch"] for row in group]
    high = [(row[f"{step}_q3_ms"] - row[f"{step}_ms"]) / row["batch"] for row in group]
    colours = ["tab:gray" if MODELS[row["model"]].form else "tab:blue" for row in group]
    places = range(len(group))
    axis.barh(places, middle, xerr=[low, high], color=colours, alpha=0.7, capsize=3)
    for place, row in enumerate(group):
        axis.annotate(
            f" {row[f'{step}_ratio']:.2f}×", (0, place), va="center", fontsize=8,
            xytext=(2, 0), textcoords="offset points",
        )  # fmt: skip
    axis.set_xlim(0, 1.1 * max(a + b for a, b in zip(middle, high, strict=True)))
