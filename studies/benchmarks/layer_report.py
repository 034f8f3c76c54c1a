"""Tables and a plot of the benchmark of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tabulate import tabulate

from lambda_det.records import provenance
from studies.benchmarks.layer_forms import PEER_FORMS
from studies.plots import new_figure, save_figure

_HEADERS = [
    "form", "forward ms", "train ms", "(min to max)", "forward, fastest peer ÷ this",
    "train, fastest peer ÷ this", "forward, % of sgemm (of FMA)", "backward, % of sgemm (of FMA)",
    "kept MiB", "peak MiB", "error", "error of gradients",
]  # fmt: skip


def text_tables(rows: Sequence[Mapping]) -> str:
    """Format the rows for a terminal, with a table for each shape."""
    return "\n\n".join(
        f"{title(shape[0])}\n"
        + tabulate([_cells(row, shape) for row in shape], _HEADERS, tablefmt="rounded_outline")
        for shape in by_shape(rows)
    )


def layers_table(record: Mapping) -> str:
    """Format the record in Markdown, with a table for each shape."""
    parts = [
        f"**{title(shape[0])}**\n\n"
        + tabulate([_cells(row, shape) for row in shape], _HEADERS, tablefmt="pipe")
        for shape in by_shape(record["rows"])
    ]
    return "\n\n".join([*parts, provenance(record)])


def ratios_table(record: Mapping) -> str:
    """What a user gains, in Markdown: a line for each shape."""
    headers = [
        "input", "position lambda, forward: fastest peer ÷ ours", "training step",
        "whole layer ÷ 3×3 convolution, forward", "training step",
    ]  # fmt: skip
    lines = []
    for shape in by_shape(record["rows"]):
        rows = {row["form"]: row for row in shape}
        ours, layer, convolution = (rows[n] for n in ("auto", "LambdaLayer", "3x3 convolution"))
        whats = ("forward_ms", "train_ms")
        lines.append([title(shape[0]).partition(",")[0], *(_ratio(ours, shape, w) for w in whats)])
        lines[-1] += [f"{layer[what] / convolution[what]:.2f}" for what in whats]
    table = tabulate(lines, headers, tablefmt="pipe", disable_numparse=True)
    threads = record["rows"][0]["threads"]
    return f"{table}\n\nfloat32, {threads} threads. {provenance(record)}"


def by_shape(rows: Sequence[Mapping]) -> list[list[Mapping]]:
    """Group the rows by their input; the order of the rows stays the same."""
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("stage", "batch", "height", "width", "device", "dtype"))
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def title(row: Mapping) -> str:
    """Describe the input that a row was measured with."""
    return (
        f"{row['stage']}: {row['batch']} × {row['channels']} × {row['height']} × {row['width']}, "
        f"{row['dtype']}, {row['device']}"
    )


def fastest_peer(shape: Sequence[Mapping], what: str = "train_ms") -> float | None:
    """Milliseconds of the fastest form that others publish, or None."""
    times = [row[what] for row in shape if row["form"] in PEER_FORMS and row.get(what)]
    return min(times, default=None)


def _cells(row: Mapping, shape: Sequence[Mapping]) -> list[str]:
    if "note" in row:
        return [row["form"], row["note"]]
    return [
        row["form"],
        _number(row["forward_ms"], ".2f"),
        _number(row["train_ms"], ".2f"),
        f"{row['train_min_ms']:.2f} to {row['train_max_ms']:.2f}",
        *(_ratio(row, shape, what) for what in ("forward_ms", "train_ms")),
        *(_share(row, what) for what in ("forward_gflops", "backward_gflops")),
        _number(row["saved_mib"], ".1f"),
        _number(row["peak_mib"], ".1f"),
        _number(row.get("error"), ".1e"),
        _number(row.get("gradient_error"), ".1e"),
    ]


def _ratio(row: Mapping, shape: Sequence[Mapping], what: str) -> str:
    peer = fastest_peer(shape, what)
    return "–" if peer is None or row["kind"] != "position" else f"{peer / row[what]:.2f}"


def _share(row: Mapping, what: str) -> str:
    """The rate as percent of that of a matrix product, and of multiply-adds in registers."""
    shares = [
        f"{100 * row[what] / row[peak]:.0f}"
        for peak in ("sgemm_gflops", "fma_gflops")
        if peak in row and row.get(what) is not None
    ]
    return " ".join(shares[:1] + [f"({share})" for share in shares[1:]]) or "–"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def plot(rows: Sequence[Mapping], path: str) -> None:
    """Plot bars of the training step and, darker, of the forward, with a panel for each shape.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    shapes = by_shape([row for row in rows if "note" not in row])
    columns = min(3, len(shapes))
    lines = -(-len(shapes) // columns)
    most = max(map(len, shapes))
    figure = new_figure(5 * columns, (0.3 * most + 1.2) * lines)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, shape in zip(axes, shapes, strict=False):
        _panel(axis, shape)
    for axis in axes[len(shapes) :]:
        axis.set_axis_off()
    axes[0].legend(loc="lower right", fontsize=8)
    save_figure(figure, path)


def _panel(axis, shape: Sequence[Mapping]) -> None:
    colors: Callable[[Mapping], str] = lambda row: {  # noqa: E731
        "position": "tab:gray" if row["form"] in PEER_FORMS else "tab:blue",
        "layer": "tab:purple",
        "yardstick": "tab:orange",
    }[row["kind"]]
    names = [row["form"] for row in shape]
    places = range(len(shape))
    axis.barh(
        places, [row["train_ms"] for row in shape], color=[colors(row) for row in shape],
        alpha=0.5, label="training step",
    )  # fmt: skip
    axis.barh(
        places, [row["forward_ms"] for row in shape], color=[colors(row) for row in shape],
        height=0.4, label="forward, inference",
    )  # fmt: skip
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("ms")
    axis.set_title(title(shape[0]), fontsize=9)
