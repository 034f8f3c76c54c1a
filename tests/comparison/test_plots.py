"""The pictures: styles, and that SVG and PNG come out as a page needs them."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import pytest

from lambda_det.comparison import plots


def row(variant: str, depth: int, ap: float, **more: object) -> dict:
    name = f"{variant}_{depth}"
    value: Mapping = {"mean": ap, "sd": 1.0, "values": [ap - 1, ap + 1]}
    return {
        "model": name, "label": name, "variant": variant, "depth": depth, "box_ap": value,
        "parameters_millions": depth / 2, "inference_ms_per_image": value, **more,
    }  # fmt: skip


def test_a_variant_has_one_colour_and_a_depth_one_marker():
    rows = [row(v, d, 30) for d in (101, 152) for v in ("resnet", "se", "lambda")]
    found = plots.styles(rows)
    assert len({style.colour for style in found.values()}) == 3
    assert found["se_101"].colour == found["se_152"].colour
    assert found["se_101"].marker == found["lambda_101"].marker != found["se_152"].marker
    two = [row("lambda", 50, 30), row("lambda", 50, 31) | {"model": "other"}]
    assert len({style.colour for style in plots.styles(two).values()}) == 2


@pytest.mark.slow
def test_trade_off_as_svg_and_png():
    rows = [row("resnet", 101, 30, set_label="hard"), row("resnet", 152, 32, set_label="easy")]
    draw = plots.trade_off_figure({"rows": rows}, list(plots.TRADE_OFFS))
    text = plots.svg(draw, 'a "b" < c')
    assert text.startswith("<svg") and text.count("</svg>") == 1
    assert 'aria-label="a &quot;b&quot; &lt; c"' in text and "currentColor" in text
    assert plots._INK not in text and "<metadata" not in text
    for word in ("hard", "easy", "resnet_152", "box AP", "parameters, millions"):
        assert f">{word}</text>" in text
    assert text == plots.svg(draw, 'a "b" < c')  # the same every time
    image = cv2.imdecode(np.frombuffer(plots.png(draw), np.uint8), cv2.IMREAD_COLOR)
    assert (image[0, 0] == 255).all() and image.min() < 50


def test_nothing_to_draw():
    bare = {"model": "m", "label": "m", "variant": "se", "depth": 50}
    assert plots.trade_off_figure({"rows": [bare]}, list(plots.TRADE_OFFS)) is None
    assert plots.loss_figure({"": {"m": []}}, {"rows": [bare]}) is None
    assert plots.class_figure({"box": {"m": {"c": []}}, "mask": {}}, {"rows": [bare]}) is None


def test_models_are_named_where_the_last_set_has_not_begun():
    rows = [row("se", 50, 3), row("lambda", 50, 3)]
    curves = {
        "hard": {"se_50": [{20: 3.0, 40: 2.0}, {20: 4.0}], "lambda_50": [{20: 4.0}]},
        "easy": {"se_50": [{20: 3.0, 40: 2.0}], "lambda_50": []},
    }
    text = plots.svg(plots.loss_figure(curves, {"rows": rows}), "losses")
    for word in ("hard", "easy", "total loss", "se_50", "lambda_50"):
        assert f">{word}</text>" in text


def test_dollars_in_names_are_no_formula():
    rows = [row("se", 50, 3, label=r"$5 for $\frac"), row("lambda", 50, 3)]
    gains = {"box": {"se_50": {r"$\x$": [1.0, 2.0]}}}
    text = plots.svg(plots.class_figure(gains, {"rows": rows}), "classes")
    assert r">$\x$</text>" in text and r">$5 for $\frac</text>" in text
