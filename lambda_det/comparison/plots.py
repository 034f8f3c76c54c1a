"""The plots of a comparison: AP against time and size, losses, and AP of each class.

matplotlib draws them as SVG for the report (in the page's text colour, so that they are readable on
a light and on a dark page) or as PNG.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lambda_det.comparison.tables import sets_of, tasks_of

Draw = Callable[[Figure], None]
"""A function that draws a plot on an empty figure."""

_INK = "#0a0b0c"  # becomes the page's colour in SVG
_GRID = "#808890"
# These colours can be told apart on white and on black, also by most colour-blind readers.
_PALETTE = ("#7b8794", "#e08a1e", "#3b82d6", "#2a9d6f", "#c2528b", "#8b6fd1", "#b3a125", "#4fb3bf")
_MARKERS = "osD^vP*X"
_LINES = ("-", "--", ":", "-.")

TRADE_OFFS = {
    "inference_ms_per_image": "inference, ms per image",
    "parameters_millions": "parameters, millions",
}


@dataclass(frozen=True)
class Style:
    """How a model is drawn: a colour for its kind, a marker and a line for its depth."""

    colour: str
    marker: str
    line: str


def styles(rows: Sequence[Mapping]) -> dict[str, Style]:
    """Choose the style of each model of a record's rows. If variant and depth tell the models
    apart, models of one variant share a colour; otherwise each model has its own."""
    models = {row["model"]: (row["variant"], row["depth"]) for row in rows}
    if len(set(models.values())) < len(models):
        models = {model: (model, 0) for model in models}
    kinds, depths = ([*dict.fromkeys(values)] for values in zip(*models.values(), strict=True))
    return {
        model: Style(
            _PALETTE[kinds.index(kind) % len(_PALETTE)],
            _MARKERS[depths.index(depth) % len(_MARKERS)],
            _LINES[depths.index(depth) % len(_LINES)],
        )
        for model, (kind, depth) in models.items()
    }


def trade_off_figure(record: Mapping, columns: Sequence[str]) -> Draw | None:
    """Plot AP against columns of cost, which are keys of :data:`TRADE_OFFS`, with a row of axes for
    each set of a record; None if the record has no such numbers."""
    columns = [c for c in columns if any(c in row for row in record["rows"])]
    shown = [(label, rows) for label, rows in sets_of(record) if tasks_of(rows)]
    tasks = tasks_of(record["rows"])
    if not shown or not columns:
        return None
    style = styles(record["rows"])
    panels = [(task, column) for column in columns for task in tasks]

    def draw(figure: Figure) -> None:
        figure.set_size_inches(max(3.3 * len(panels), 4.5), 3.1 * len(shown))
        grid = figure.subplots(len(shown), len(panels), squeeze=False)
        for axes_row, (label, rows) in zip(grid, shown, strict=True):
            for axes, (task, column) in zip(axes_row, panels, strict=True):
                _trade_off(axes, rows, task, column, style)
            axes_row[0].set_title(label, loc="left")

    return draw


def loss_figure(
    curves: Mapping[str, Mapping[str, Sequence[Mapping[int, float]]]], record: Mapping
) -> Draw | None:
    """Plot the training loss of each set (label of a set -> model -> for each seed, iteration ->
    loss): the mean over the seeds, with a band from the lowest to the highest; None without
    curves."""
    curves = {label: models for label, models in curves.items() if any(models.values())}
    if not curves:
        return None
    style = styles(record["rows"])
    names = {row["model"]: row["label"] for row in record["rows"]}

    def draw(figure: Figure) -> None:
        figure.set_size_inches(max(4.6 * len(curves), 7), 3.4)
        for axes, (label, models) in zip(
            figure.subplots(1, len(curves), squeeze=False, sharey=True)[0],
            curves.items(),
            strict=True,
        ):
            for model, seeds in models.items():
                _loss(axes, seeds, style[model], names[model])
            axes.set_title(label, loc="left")
            axes.set_xlabel("iteration")
        axes.figure.axes[0].set_ylabel("total loss")
        # The legend goes where most models have a curve, because the last set may not have begun.
        max(figure.axes, key=lambda axes: len(axes.get_lines())).legend(frameon=False)

    return draw


def class_figure(
    gains: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], record: Mapping
) -> Draw | None:
    """Plot the AP of each class minus the baseline's (task -> model -> class -> differences of the
    seeds, in percentage points): the mean over the seeds, and a dot per seed; None without
    classes."""
    gains = {task: models for task, models in gains.items() if models}
    found = [of for models in gains.values() for of in models.values()]
    classes = [*dict.fromkeys(name for of in found for name, values in of.items() if values)]
    if not classes:
        return None
    style = styles(record["rows"])
    labels = {row["model"]: row["label"] for row in record["rows"]}
    models = [*dict.fromkeys(model for of in gains.values() for model in of)]

    def draw(figure: Figure) -> None:
        height = 0.9 + (0.16 + 0.17 * len(models)) * len(classes)
        figure.set_size_inches(1 + 4.2 * len(gains), height)
        panels = figure.subplots(1, len(gains), squeeze=False, sharey=True)[0]
        for axes, (task, of) in zip(panels, gains.items(), strict=True):
            for index, model in enumerate(models):
                shift = 0.8 * ((index + 0.5) / len(models) - 0.5)
                _bars(axes, of.get(model, {}), classes, shift, 0.7 / len(models), style[model])
            axes.axvline(0, color=_INK, linewidth=0.8)
            axes.set_yticks(range(len(classes)), classes)
            axes.set_xlabel(f"{task} AP, difference to the baseline")
            axes.grid(axis="y", visible=False)
        panels[0].invert_yaxis()
        handles = [Patch(color=style[model].colour, label=labels[model]) for model in models]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(models), frameon=False)

    return draw


def svg(draw: Draw, description: str) -> str:
    """Draw an ``<svg>`` element for an HTML page, in the colour of the page's text, with a
    description for readers who do not see the plot."""
    salt = f"{zlib.crc32(description.encode()):08x}"
    text = _save(draw, "svg", salt).decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = text.replace(_INK, "currentColor")
    # The size in points becomes the largest size; the plot shrinks with the page.
    width = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    size = f'style="max-width:{float(width[1]) * 1.25:.0f}px" role="img" aria-label="{label}"'
    return text.replace(width[0], size, 1)


def png(draw: Draw) -> bytes:
    """Draw a PNG on a white background, and return the bytes of the file."""
    return _save(draw, "png", "")


def _save(draw: Draw, kind: str, salt: str) -> bytes:
    options = {
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK
        ),
        "axes.grid": True, "grid.color": _GRID, "grid.alpha": 0.25, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
        "text.parse_math": False,  # a "$" in a label or a class name is that
        "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": salt,
    }  # fmt: skip
    content = io.BytesIO()
    with matplotlib.rc_context(options):
        figure = Figure(layout="constrained")
        draw(figure)
        if kind == "svg":
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(content, format=kind, transparent=True, metadata=nothing)
        else:
            figure.savefig(content, format=kind, dpi=160)
    return content.getvalue()


def _trade_off(axes, rows: Sequence[Mapping], task: str, column: str, style: Mapping) -> None:
    points: dict[str, tuple[float, float]] = {}
    shown = [row for row in rows if column in row and f"{task}_ap" in row]
    for row in shown:
        x, x_error = _mean_and_error(row[column])
        y, y_error = _mean_and_error(row[f"{task}_ap"])
        look = style[row["model"]]
        axes.errorbar(
            x, y, yerr=y_error, xerr=x_error, fmt=look.marker, color=look.colour, capsize=3,
            markersize=7, elinewidth=1.2,
        )  # fmt: skip
        points[row["model"]] = x, y
    for colour in dict.fromkeys(style[model].colour for model in points):
        line = [point for model, point in points.items() if style[model].colour == colour]
        if len(line) > 1:  # the same network at several depths
            axes.plot(*zip(*line, strict=True), color=colour, alpha=0.5, linewidth=1, zorder=1)
    axes.margins(x=0.2, y=0.2)
    # A minimum range keeps a negligible difference from filling the plot.
    _widen(axes.get_xlim, axes.set_xlim, 0.5)
    _widen(axes.get_ylim, axes.set_ylim, 0.1, at_least=4)
    middle = sum(axes.get_xlim()) / 2
    for place, row in enumerate(sorted(shown, key=lambda row: points[row["model"]][1])):
        # Labels point to the middle; neighbours alternate below and above, so as not to overlap.
        left, below = points[row["model"]][0] > middle, place % 2 == 0
        axes.annotate(
            row["label"], points[row["model"]], color=style[row["model"]].colour,
            xytext=(-7 if left else 7, -6 if below else 6), textcoords="offset points",
            ha="right" if left else "left", va="top" if below else "bottom",
        )  # fmt: skip
    axes.set_xlabel(TRADE_OFFS[column])
    axes.set_ylabel(f"{task} AP")


def _widen(get, set_, share: float, at_least: float = 0) -> None:
    """Widen the limits of an axis to be at least ``share`` of their middle apart."""
    low, high = get()
    middle = (low + high) / 2
    half = max(high - low, share * middle, at_least) / 2
    set_(middle - half, middle + half)


def _bars(axes, of: Mapping, classes: Sequence[str], shift, height, look: Style) -> None:
    for place, name in enumerate(classes):
        if values := of.get(name):
            mean = sum(values) / len(values)
            axes.barh(place + shift, mean, height, color=look.colour, alpha=0.8)
            if len(values) > 1:
                axes.plot(values, [place + shift] * len(values), ".", color=_INK, markersize=3)


def _mean_and_error(value: Mapping | float) -> tuple[float, float | None]:
    return (value["mean"], value["sd"]) if isinstance(value, Mapping) else (value, None)


def _loss(axes, seeds: Sequence[Mapping[int, float]], look: Style, label: str) -> None:
    if not seeds:
        return
    common = sorted(set.intersection(*(set(curve) for curve in seeds)))
    columns = [[curve[at] for curve in seeds] for at in common]
    mean = [sum(values) / len(values) for values in columns]
    axes.plot(common, mean, look.line, color=look.colour, label=label, linewidth=1.6)
    if len(seeds) > 1:
        least, most = [min(values) for values in columns], [max(values) for values in columns]
        axes.fill_between(common, least, most, color=look.colour, alpha=0.18, linewidth=0)
