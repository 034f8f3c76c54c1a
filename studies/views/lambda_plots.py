"""Plots of lambda layers: embeddings, content lambdas, position maps and receptive fields.

Every function draws into a matplotlib figure or subfigure, so that the same code draws a separate
plot and a part of a page.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from studies.views.lambda_views import Grid, LambdaView
from studies.views.receptive_field import radius_holding

_MOST = 32  # largest number of panels in a plot; more would be too small to read
_SIGNED, _POSITIVE = "RdBu_r", "magma"
_SMALL = 8  # font size in points
_FAINTEST = 1e-4  # gradients below this share of the largest are black


def draw_embeddings(figure, view: LambdaView, title: str = "") -> None:
    """Plot the embedding: a panel for each k (and u), with one colour scale around zero."""
    depth, intra_depth = view.embedding.shape[:2]
    panels = view.embedding.flatten(0, 1).cpu().numpy()
    names = [
        f"k={k}" if intra_depth == 1 else f"k={k} u={u}"
        for k in range(depth)
        for u in range(intra_depth)
    ]
    rows, columns = view.embedding.shape[-2:]
    extent = (-(columns // 2) - 0.5, columns // 2 + 0.5, rows // 2 + 0.5, -(rows // 2) - 0.5)
    unit = f"{rows} x {columns} offsets"
    figure.suptitle(title or f"position embeddings of {view.name} ({unit})", fontsize=10)
    _signed_panels(figure, panels, names, extent=extent)


def draw_position_maps(
    figure, view: LambdaView, position: tuple[int, int], background: np.ndarray, title: str = ""
) -> None:
    """Plot the weights of one query over the image, marked by +: a panel for each head (and u)."""
    maps = view.position_maps(*position)
    heads, intra_depth = maps.shape[:2]
    names = [
        f"head {h}" if intra_depth == 1 else f"head {h} u={u}"
        for h in range(heads)
        for u in range(intra_depth)
    ]
    figure.suptitle(title or f"position lambda of the query at +, {view.name}", fontsize=10)
    extent = _map_extent(maps.shape[-2:], view.grid)
    _signed_panels(
        figure, maps.flatten(0, 1).cpu().numpy(), names, extent=extent, background=background,
        mark=tuple(map(view.grid.pixel, position)),
    )  # fmt: skip


def draw_content(figure, view: LambdaView, background: np.ndarray, title: str = "") -> None:
    """Plot the mean key weights over the image, and the resulting k x v content lambda."""
    weights = view.key_weights.mean(dim=(0, 1)).abs().cpu().numpy()
    content = view.content_lambda.cpu().numpy()
    figure.suptitle(title or f"content lambda of {view.name}", fontsize=10)
    keys, matrix = figure.subplots(1, 2, width_ratios=(1, 2.2))
    extent = _map_extent(weights.shape, view.grid)
    shown = _over_image(keys, weights, background, extent, cmap=_POSITIVE, vmin=0)
    figure.colorbar(shown, ax=keys, shrink=0.8).ax.tick_params(labelsize=_SMALL - 1)
    keys.set_title("key weights, mean of all k", fontsize=_SMALL)
    most = float(np.abs(content).max()) or 1.0
    shown = matrix.imshow(content, cmap=_SIGNED, vmin=-most, vmax=most, aspect="auto",
                          interpolation="nearest")  # fmt: skip
    figure.colorbar(shown, ax=matrix, shrink=0.8).ax.tick_params(labelsize=_SMALL - 1)
    matrix.set_title("lambda", fontsize=_SMALL)
    matrix.set_xlabel(f"v (of {content.shape[1]})", fontsize=_SMALL)
    matrix.set_ylabel(f"k (of {content.shape[0]})", fontsize=_SMALL)
    matrix.tick_params(labelsize=_SMALL - 1)


def draw_keys(figure, view: LambdaView, background: np.ndarray) -> None:
    """Plot the weights of each key over the image, a panel for each."""
    intra_depth, depth = view.key_weights.shape[:2]
    panels = view.key_weights.flatten(0, 1)[:_MOST].cpu().numpy()
    figure.suptitle(f"key weights of {view.name}, each on its own scale", fontsize=10)
    extent = _map_extent(panels.shape[-2:], view.grid)
    for index, (axes, panel) in enumerate(zip(_grid(figure, len(panels)), panels, strict=False)):
        _over_image(axes, panel, background, extent, cmap=_POSITIVE)
        u, k = divmod(index, depth)
        axes.set_title(f"k={k}" if intra_depth == 1 else f"k={k} u={u}", fontsize=_SMALL)


def draw_fields(
    figure,
    fields: Mapping[str, Tensor],
    centre: tuple[float, float],
    background: np.ndarray,
    title: str,
) -> None:
    """Plot the image and the receptive fields; rings contain half and 99 % of each."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle

    figure.suptitle(title, fontsize=10)
    first, *others = figure.subplots(1, 1 + len(fields))
    first.imshow(background)
    first.set_title("query", fontsize=_SMALL)
    _mark(first, centre)
    norm = LogNorm(_FAINTEST, 1)  # a log scale also shows small gradients far away
    for axes, (name, field) in zip(others, fields.items(), strict=True):
        half, most = (radius_holding(field, centre, share) for share in (0.5, 0.99))
        relative = field.cpu().numpy() / (float(field.max()) or 1.0)
        shown = axes.imshow(np.maximum(relative, _FAINTEST), cmap=_POSITIVE, norm=norm)
        for radius, style in ((half, "-"), (most, "--")):
            ring = Circle(centre[::-1], radius, fill=False, color="white", lw=1, ls=style)
            axes.add_patch(ring)
        axes.set_title(
            f"{name}: half within {half:.0f} px, 99 % within {most:.0f} px", fontsize=_SMALL
        )
    bar = figure.colorbar(shown, ax=others, shrink=0.8)
    bar.ax.tick_params(labelsize=_SMALL - 1)
    bar.set_label("of the largest", fontsize=_SMALL)
    for axes in (first, *others):
        axes.set(xticks=[], yticks=[])
        axes.set_xlim(-0.5, background.shape[1] - 0.5)
        axes.set_ylim(background.shape[0] - 0.5, -0.5)


def panel_rows(count: int) -> int:
    """How many rows of eight the panels of one kind take."""
    return -(-min(count, _MOST) // 8)


def _signed_panels(
    figure, panels: np.ndarray, names: list[str], *, extent, background=None, mark=None
) -> None:
    most = float(np.abs(panels).max()) or 1.0
    if len(panels) > _MOST:
        names = [*names[: _MOST - 1], f"{names[_MOST - 1]} (of {len(panels)})"]
    shown, used = None, []
    for axes, panel, name in zip(_grid(figure, len(panels)), panels, names, strict=False):
        arguments = {"cmap": _SIGNED, "vmin": -most, "vmax": most}
        if background is None:
            shown = axes.imshow(panel, extent=extent, interpolation="nearest", **arguments)
            axes.set(xticks=[], yticks=[])
        else:
            shown = _over_image(axes, panel, background, extent, **arguments)
            _mark(axes, mark)
        axes.set_title(name, fontsize=_SMALL)
        used.append(axes)
    bar = figure.colorbar(shown, ax=used, shrink=0.9, aspect=12 * panel_rows(len(used)))
    bar.ax.tick_params(labelsize=_SMALL - 1)


def _grid(figure, count: int) -> list:
    count = min(count, _MOST)
    columns = min(8, count)
    axes = np.atleast_1d(figure.subplots(panel_rows(count), columns)).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return list(axes[:count])


def _over_image(axes, values: np.ndarray, background: np.ndarray, extent, **arguments):
    """Draw a map, half transparent, over the image in pale grey."""
    grey = background.mean(axis=2)
    axes.imshow(0.5 * grey + 127, cmap="gray", vmin=0, vmax=255)
    shown = axes.imshow(values, extent=extent, alpha=0.75, interpolation="nearest", **arguments)
    axes.set(xticks=[], yticks=[])
    axes.set_xlim(-0.5, background.shape[1] - 0.5)
    axes.set_ylim(background.shape[0] - 0.5, -0.5)
    return shown


def _map_extent(size: tuple[int, int], grid: Grid) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) in pixels; a position is a square around its centre."""
    ends = [grid.pixel(side - 1) + grid.stride / 2 for side in size]
    start = grid.pixel(0) - grid.stride / 2
    return start, ends[1], ends[0], start


def _mark(axes, centre: tuple[float, float]) -> None:
    axes.plot(centre[1], centre[0], marker="+", color="black", ms=9, mew=3)
    axes.plot(centre[1], centre[0], marker="+", color="yellow", ms=8, mew=1.4)
