"""Plots and numbers of a network's lambda layers, written to a folder."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from lambda_det.errors import InputError, writing
from lambda_det.io import write_bytes, write_json
from studies.plots import new_figure, save_figure
from studies.views.lambda_plots import (
    draw_content,
    draw_embeddings,
    draw_fields,
    draw_keys,
    draw_position_maps,
    panel_rows,
)
from studies.views.lambda_views import (
    LambdaView,
    choose_layers,
    grids,
    lambda_layers,
    view_layers,
)
from studies.views.receptive_field import radius_holding, receptive_field

FIGURE_FILE, NUMBERS_FILE, ARRAYS_FILE = "figure.png", "numbers.json", "arrays.npz"
_WIDTH = 11.0  # width of a plot in inches


def draw_lambdas(
    networks: Mapping[str, nn.Module],
    image: Tensor,
    background: np.ndarray,
    output: str,
    *,
    query: tuple[float, float] | None = None,
    layers: Sequence[str] | None = None,
    feature: str | None = None,
    channels: int = 16,
) -> dict:
    """Plot what the lambda layers of the first network compute, and all receptive fields.

    This writes ``embeddings_<layer>.png``, ``positions_<layer>.png``, ``content_<layer>.png`` and
    ``keys_<layer>.png`` for each layer, ``receptive_field.png``, ``figure.png`` (all plots of the
    first layer on one page), ``numbers.json`` and ``arrays.npz``. A layer without content or
    position has no such plot.

    Args:
        networks: label -> backbone in evaluation mode; all must be on one device.
        image: (1, C, H, W), normalised input of the backbones, without padding.
        background: (H, W, 3) RGB uint8, the same image for the background of the plots.
        output: the folder; it is made if it does not exist.
        query: (row, column) in pixels of ``image``; None takes its middle.
        layers: names of layers, see :func:`~studies.views.lambda_views.choose_layers`.
        feature: name of the feature, such as ``res4``, whose receptive field is plotted; None takes
            the stage of the first layer.
        channels: number of channels of the feature whose gradients are computed, see
            :func:`~studies.views.receptive_field.receptive_field`.

    Returns:
        The content of ``numbers.json``: radii in pixels, and ``attended_positions`` of the keys.

    Raises:
        InputError: there are no lambda layers, a layer or the feature is unknown, the query is
            outside of the image, or the folder cannot be written.
    """
    height, width = image.shape[-2:]
    if query is None:
        query = ((height - 1) / 2, (width - 1) / 2)
    if not (0 <= query[0] <= height - 1 and 0 <= query[1] <= width - 1):
        raise InputError(
            f"--query {query[0]:g} {query[1]:g}: the image has {height} x {width} pixels"
        )
    label, backbone = next(iter(networks.items()))
    all_layers = lambda_layers(backbone)
    names = choose_layers(all_layers, layers, label)
    feature = feature or names[0].partition(".")[0]
    views = view_layers(backbone, image, names)
    places = {n: v.grid.position(query, v.query.shape[-2:]) for n, v in views.items()}
    fields, centre = _fields(networks, image, feature, query, channels)

    with writing(f"--output {output}"):
        os.makedirs(output, exist_ok=True)
    page = _Page(output, background)
    count = f"{min(channels, _channels(backbone, feature))} channels of {feature}"
    page.add(
        "receptive_field", 0.36 * 3 / (1 + len(fields)), draw_fields, fields, centre, background,
        f"effective receptive field: gradient of {count} at +",
    )  # fmt: skip
    for name, view in views.items():
        page.first_layer = name == names[0]
        if view.embedding is not None:
            page.add(f"embeddings_{name}", _panels(view.embedding.shape), draw_embeddings, view)
            shape = (view.query.shape[0], len(view.value))
            page.add(
                f"positions_{name}",
                _panels(shape),
                draw_position_maps,
                view,
                places[name],
                background,
            )
        if view.key_weights is not None:
            page.add(f"content_{name}", 0.3, draw_content, view, background)
            page.add(
                f"keys_{name}", _panels(view.key_weights.shape), draw_keys, view, background,
                on_page=False,
            )  # fmt: skip
    page.save()

    numbers = {
        "image": [height, width],
        "query": list(query),
        "receptive_field": {
            "feature": feature,
            "channels": channels,
            "centre": list(centre),
            "networks": {
                name: {
                    "half_radius_px": _radius(field, centre, 0.5),
                    "ninety_percent_radius_px": _radius(field, centre, 0.9),
                    "ninety_nine_percent_radius_px": _radius(field, centre, 0.99),
                }
                for name, field in fields.items()
            },
            "half_radius_of_an_even_field_px": _radius(image.new_ones(height, width), centre),
        },
        "layers": {n: _numbers(view, places[n]) for n, view in views.items()},
    }
    with writing(f"--output {output}"):
        write_json(numbers, os.path.join(output, NUMBERS_FILE))
        write_bytes(_arrays(views, places, fields), os.path.join(output, ARRAYS_FILE))
    return numbers


class _Page:
    """Saves plots by name, and one page with those of the first layer below each other."""

    def __init__(self, output: str, background: np.ndarray) -> None:
        self._output = output
        self._tall = min(2.0, max(0.3, background.shape[0] / background.shape[1]))
        self._panels: list[tuple[float, object, tuple]] = []
        self.first_layer = True

    def add(self, name: str, height: float, draw, *arguments, on_page: bool = True) -> None:
        """Draw and save a plot; ``height`` is in page widths, for a square image."""
        inches = _WIDTH * height * self._tall + 0.5
        figure = new_figure(_WIDTH, inches)
        draw(figure, *arguments)
        self._save(figure, name + ".png")
        if on_page and self.first_layer:
            self._panels.append((inches, draw, arguments))

    def save(self) -> None:
        heights = [inches for inches, _, _ in self._panels]
        figure = new_figure(_WIDTH, sum(heights))
        parts = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))
        for part, letter, (_, draw, arguments) in zip(parts, "abcdef", self._panels, strict=False):
            draw(part, *arguments)
            text = part._suptitle.get_text()
            part.suptitle(f"({letter}) {text}", fontsize=10)
        self._save(figure, FIGURE_FILE)

    def _save(self, figure, name: str) -> None:
        save_figure(figure, os.path.join(self._output, name), flag="--output")


def _panels(shape: Sequence[int]) -> float:
    """Height of a grid of small panels, in page widths."""
    count = shape[0] * shape[1]
    return panel_rows(count) * (0.95 / min(8, max(count, 3)) + 0.02)


def _channels(backbone: nn.Module, feature: str) -> int:
    return backbone.output_shape()[feature].channels


def _fields(
    networks: Mapping[str, nn.Module],
    image: Tensor,
    feature: str,
    query: tuple[float, float],
    channels: int,
) -> tuple[dict[str, Tensor], tuple[float, float]]:
    if channels < 1:
        raise InputError(f"--channels {channels}: at least 1 is needed")
    fields = {}
    for label, backbone in networks.items():
        shapes = backbone.output_shape()
        if feature not in grids(backbone) or feature not in shapes:
            raise InputError(f"--feature {feature}: expected one of {', '.join(shapes)}")
        grid = grids(backbone)[feature]
        position = grid.position(query, [-(-side // grid.stride) for side in image.shape[-2:]])
        centre = tuple(map(grid.pixel, position))
        fields[label] = receptive_field(backbone, image, feature, position, channels=channels).cpu()
    return fields, centre


def _radius(field: Tensor, centre: tuple[float, float], share: float = 0.5) -> float | None:
    radius = radius_holding(field, centre, share)
    return None if math.isnan(radius) else radius


def _numbers(view: LambdaView, position: tuple[int, int]) -> dict:
    height, width = view.query.shape[-2:]
    numbers = {
        "stride": view.grid.stride,
        "positions": [height, width],
        "query_position": list(position),
        "attended_positions": view.attended,
    }
    maps = view.position_maps(*position)
    if maps is not None:
        size = maps.abs().sum(dim=1)
        radii = [_radius(head, position) for head in size]
        numbers["half_radius_px_of_heads"] = [
            None if radius is None else radius * view.grid.stride for radius in radii
        ]
    return numbers


def _arrays(
    views: Mapping[str, LambdaView],
    places: Mapping[str, tuple[int, int]],
    fields: Mapping[str, Tensor],
) -> bytes:
    arrays = {f"receptive_field/{label}": field for label, field in fields.items()}
    for name, view in views.items():
        arrays |= {
            f"{name}/embedding": view.embedding,
            f"{name}/position_maps": view.position_maps(*places[name]),
            f"{name}/key_weights": view.key_weights,
            f"{name}/content_lambda": view.content_lambda,
        }
    file = io.BytesIO()
    there = {n: a.detach().float().cpu().numpy() for n, a in arrays.items() if a is not None}
    np.savez_compressed(file, **there)
    return file.getvalue()
