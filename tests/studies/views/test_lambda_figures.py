"""The folder of plots: its files, and the errors if they cannot be made."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.errors import InputError
from studies.views.lambda_figures import draw_lambdas

pytest.importorskip("matplotlib")
SIZE = (75, 43)


def network(variant: str = "lambda", **arguments) -> nn.Module:
    # Few panels: laying them out takes the time.
    arguments = {"query_depth": 2, "num_heads": 1, **arguments}
    backbone = build_lambda_resnet(50, variant, **arguments).eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def draw(folder: Path, networks: dict, **options) -> dict:
    background = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    image = torch.as_tensor(background / 127.5 - 1).float().permute(2, 0, 1)[None]
    return draw_lambdas(networks, image, background, str(folder), channels=2, **options)


@pytest.fixture
def not_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the drawing of plots, which takes seconds."""
    saved = "studies.views.lambda_figures.save_figure"
    monkeypatch.setattr(saved, lambda figure, path, flag: Path(path).touch())


def test_figures_of_a_layer(tmp_path: Path):
    networks = {"λ": network(scope=5), "conv": network("resnet")}
    draw(tmp_path / "new", networks, layers=["res5.1"])
    for kind in ("embeddings", "positions", "content", "keys"):
        assert is_drawn(tmp_path / "new" / f"{kind}_res5.1.png")
    assert is_drawn(tmp_path / "new/receptive_field.png")
    assert is_drawn(tmp_path / "new/figure.png")


def is_drawn(path: Path) -> bool:
    figure = cv2.imread(str(path))
    return figure.std() > 10 and figure.shape[1] > 900


def test_numbers_of_two_networks(tmp_path: Path, not_laid_out: None):
    networks = {"λ": network(intra_depth=2, scope=5), "conv": network("resnet")}
    numbers = draw(tmp_path, networks, query=(20, 40), layers=["res5.1", "res4.2"])
    kinds = ("embeddings", "positions", "content", "keys")
    figures = {f"{kind}_{layer}.png" for kind in kinds for layer in ("res5.1", "res4.2")}
    files = {"receptive_field.png", "figure.png", "numbers.json", "arrays.npz"}
    assert {path.name for path in tmp_path.iterdir()} == figures | files
    assert json.loads((tmp_path / "numbers.json").read_text()) == numbers
    field = numbers["receptive_field"]
    assert field["feature"] == "res5" and set(field["networks"]) == {"λ", "conv"}
    assert field["centre"] == [14, 46]  # of position 0, 1 of 3 x 2, at 32 i + 14
    assert numbers["layers"]["res4.2"]["query_position"] == [1, 2]
    arrays = np.load(tmp_path / "arrays.npz")
    assert arrays["res4.2/position_maps"].shape == (1, 2, 5, 3)
    assert arrays["res5.1/embedding"].shape == (2, 2, 5, 5)
    assert arrays["receptive_field/conv"].shape == SIZE


@pytest.mark.parametrize("part", ["content", "position"])
def test_without_one_of_the_two_lambdas(tmp_path: Path, part: str, not_laid_out: None):
    draw(
        tmp_path, {"λ": network(scope=3, lambda_blocks={"res4": [1], "res5": []}, **{part: False})}
    )
    names = {path.name.partition("_")[0] for path in tmp_path.glob("*_res4.0.png")}
    both = {"content": {"content", "keys"}, "position": {"embeddings", "positions"}}
    assert names == set().union(*both.values()) - both[part]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": (75, 3)}, "--query 75 3: the image has 75 x 43 pixels"),
        ({"layers": ["res2.0"]}, "--layers res2.0"),
        ({"feature": "res9"}, "--feature res9"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        draw(tmp_path / "new", {"λ": network(scope=3, lambda_blocks={"res5": []})}, **options)
    assert not (tmp_path / "new").exists()


def test_a_network_without_lambda_layers(tmp_path: Path):
    with pytest.raises(InputError, match="conv has no lambda layers"):
        draw(tmp_path / "new", {"conv": network("resnet")})
    assert not (tmp_path / "new").exists()
