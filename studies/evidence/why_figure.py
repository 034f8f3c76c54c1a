"""The figure of the "why" study: learning curves, and accuracy by distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from lambda_det.comparison.plots import png
from studies.evidence.why_plan import EVERY, PARTS
from studies.evidence.why_report import SUBJECT, Found, grouped

_LINE = {
    "lambda": ("#3b82d6", "-", 2.4),
    "frozen_layer": ("#c2528b", "--", 1.5),
    "depthwise": ("#2a9d6f", "-", 1.5),
    "resnet_50": ("#3d4650", "--", 1.5),
    "content": ("#8b6fd1", "-.", 1.5),
    "resnet": ("#7b8794", "-", 1.5),
    "se": ("#e08a1e", "-", 1.5),
    "position": ("#2a9d6f", "-", 1.5),
    "scope_3": ("#f2b880", "-", 1.5),
    "scope_7": ("#e08a1e", "-", 1.5),
    "scope_15": ("#a85f0a", "-", 1.5),
    "scope_global": ("#3d4650", "--", 1.5),
    "res4_only": ("#8b6fd1", "-", 1.5),
    "res5_only": ("#8b6fd1", ":", 1.5),
    "zero_init": ("#7b8794", ":", 1.5),
    "frozen_embedding": ("#c2528b", ":", 1.5),
}
"""Network -> (colour, line style, line width). No two networks of a panel look the same."""

_OTHERS = [*PARTS["ask"].seeds]
_FORMS = [SUBJECT, *(name for name in PARTS["reach"].seeds if name not in _OTHERS)]
_PANELS: Sequence[tuple[str, str, str, Sequence[str]]] = (
    ("reach", "rows", "rows: the marker of the own row counts", _OTHERS),
    ("reach", "rows", "rows: forms of the lambda network", _FORMS),
    ("ask", "sides_distance72", "sides: a bar says whether left or right counts", _OTHERS),
    ("ask", "offsets_distance40", "offsets: a bar says which row counts", _OTHERS),
    ("ask", "matches_distance40", "matches: the equally bright marker counts", _OTHERS),
)
_PLACES = (0, 1, 3, 4, 5)  # places of the panels in a grid of 2 x 3; place 2 has the distances
_LEAST, _MOST = 45, 101  # limits of the y axis in percent
_ROOM = 1.68  # width of the x axis relative to the data; the rest is for the names


def draw_evidence(found: Found) -> bytes:
    """Draw the figure and return it as PNG.

    It shows the accuracy by iteration, with a panel for each set, and by distance. Lines are means
    over the seeds; bands go from the lowest to the highest seed.
    """
    return png(drawing(found))


def drawing(found: Found) -> Callable[[Figure], None]:
    """Return a function that draws the plots into a matplotlib figure."""
    groups = grouped(found)

    def draw(figure: Figure) -> None:
        figure.set_size_inches(11, 7)
        grid = figure.subplots(2, 3).flatten()
        for place, (part, scenes, title, networks) in zip(_PLACES, _PANELS, strict=True):
            curves = {
                name: [left["curve"] for left in groups[part, scenes, name].values()]
                for name in networks
                if (part, scenes, name) in groups
            }
            _learning(grid[place], curves)
            grid[place].set_title(title, loc="left")
        _distances(grid[2], found)
        grid[2].set_title("rows: the marker at a distance, after training", loc="left")
        for axes in (grid[0], grid[3]):
            axes.set_ylabel("right kinds, %")

    return draw


def _learning(axes, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Plot learning curves; a point is the mean over ``EVERY`` iterations, at their middle."""
    ends, most = {}, 0.0
    for name, seeds in curves.items():
        length = min(map(len, seeds))
        places = [EVERY * (index + 0.5) for index in range(length)]
        _line(axes, name, places, [[seed[index] for seed in seeds] for index in range(length)])
        ends[name] = sum(seed[length - 1] for seed in seeds) / len(seeds)
        most = max(most, places[-1] + EVERY / 2)
    _finish(axes, ends, 0, most or 1)
    axes.set_xlabel("iteration")


def _distances(axes, found: Found) -> None:
    values: dict[str, dict[int, list[float]]] = {}
    for run, left in found.items():
        if run.part == "distance":
            at = values.setdefault(run.network, {}).setdefault(run.layout.distance, [])
            at.append(left["kind_accuracy_percent"])
    ends = {}
    for name, of in values.items():
        places = sorted(of)
        _line(axes, name, places, [of[place] for place in places], marker="o")
        ends[name] = sum(of[places[-1]]) / len(of[places[-1]])
    distances = [place for of in values.values() for place in of]
    _finish(axes, ends, min(distances, default=0), max(distances, default=1))
    axes.set_xlabel("distance from a square to its marker, pixels")


def _line(axes, name: str, places, values: Sequence[Sequence[float]], marker: str = "") -> None:
    """Plot the mean of the values at each place, and a band from the lowest to the highest."""
    colour, line, width = _LINE[name]
    front = 3 if name == SUBJECT else 2
    mean = [sum(at) / len(at) for at in values]
    axes.plot(
        places, mean, line, color=colour, linewidth=width, marker=marker, markersize=4, zorder=front
    )
    if any(len(at) > 1 for at in values):
        least, most = [min(at) for at in values], [max(at) for at in values]
        axes.fill_between(places, least, most, color=colour, alpha=0.12, linewidth=0)


def _finish(axes, ends: Mapping[str, float], first: float, last: float) -> None:
    """Set the limits, and draw the line of chance and the names at the end of the lines."""
    axes.axhline(50, color="#808890", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_ylim(_LEAST, _MOST)
    margin = 0.03 * (last - first)
    axes.set_xlim(first - margin, first + _ROOM * (last - first))
    axes.set_xticks([tick for tick in axes.get_xticks() if first <= tick <= last])
    for name, place in heights(ends, 4.6, _LEAST + 2, _MOST - 2).items():
        colour = _LINE[name][0]
        axes.annotate(
            name, (last, ends[name]), (last + 0.11 * (last - first), place), color=colour,
            va="center", fontweight="bold" if name == SUBJECT else "normal", fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.7,
                        "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def heights(values: Mapping[str, float], gap: float, low: float, high: float) -> dict[str, float]:
    """Heights of labels: at least ``gap`` apart, between ``low`` and ``high``, near their values.

    They are in the order of their values and minimise the sum of squared distances to these.
    """
    names = sorted(values, key=lambda name: values[name])
    clusters: list[list[float]] = []  # height that each name would give its cluster's lowest
    for index, name in enumerate(names):
        clusters.append([values[name] - index * gap])
        while len(clusters) > 1 and _mean(clusters[-2]) >= _mean(clusters[-1]):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    lowest = [_mean(cluster) for cluster in clusters for _ in cluster]
    top = high - (len(names) - 1) * gap
    return {
        name: max(min(place, top), low) + index * gap
        for index, (name, place) in enumerate(zip(names, lowest, strict=True))
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
