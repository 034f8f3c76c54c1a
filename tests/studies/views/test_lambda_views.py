"""The tensors of a lambda layer agree with slow loops in float64 and with its output."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer
from studies.views.lambda_views import (
    Grid,
    choose_layers,
    grids,
    lambda_layers,
    view_layers,
)

SIZE = (75, 43)  # odd: maps of 5 x 3 at res4


def backbone_of(**arguments) -> nn.Module:
    torch.manual_seed(2)
    chosen = {"lambda_blocks": {"res4": [2, 5], "res5": [1]}, "scope": 5, **arguments}
    backbone = build_lambda_resnet(50, "lambda", **chosen).double().eval()
    for module in backbone.modules():
        if getattr(module, "position_bias", None) is not None:
            nn.init.normal_(module.position_bias.data)
        if isinstance(module, nn.BatchNorm2d):  # as after a training
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return backbone


def image(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def seen(backbone: nn.Module, layer: LambdaLayer) -> tuple[Tensor, Tensor]:
    """What a layer takes and gives, (C, H, W) each."""
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, given, out: kept.extend((given[0], out)))
    with torch.no_grad():
        backbone(image())
    hook.remove()
    return kept[0][0], kept[1][0]


OPTIONS = {
    "plain": {},
    "intra-depth": {"intra_depth": 2, "num_heads": 2},
    "one head": {"num_heads": 1, "query_normalizer": "softmax"},
    "global": {"scope": "global", "max_size": (80, 64)},
    "shared": {"shared_embeddings": True, "key_normalizer": "l2"},
    "raw keys": {"key_normalizer": None, "position_bias": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_maps_and_lambdas_reproduce_the_layers_output(options: dict):
    backbone = backbone_of(**options)
    for name, view in view_layers(backbone, image(), ["res4.1", "res5.0"]).items():
        layer = lambda_layers(backbone)[name]
        _, output = seen(backbone, layer)
        heads, depth, height, width = view.query.shape
        assert (view.grid.stride, height, width) == (16, 5, 3)
        expected = output.unflatten(0, (heads, -1))
        content = view.content_lambda.tolist()
        values, queries = view.value.tolist(), view.query.tolist()
        for row, column in ((0, 0), (2, 1), (4, 2)):
            maps = view.position_maps(row, column).tolist()
            for h, v in itertools.product(range(heads), (0, view.value.shape[1] - 1)):
                total = 0.0
                for u, y, x in itertools.product(
                    range(layer.intra_depth), range(height), range(width)
                ):
                    total += maps[h][u][y][x] * values[u][v][y][x]
                for k in range(depth):
                    total += queries[h][k][row][column] * content[k][v]
                    if layer.position_bias is not None:
                        total += queries[h][k][row][column] * layer.position_bias[k].item()
                assert total == pytest.approx(
                    float(expected[h, v, row, column]), rel=1e-9, abs=1e-9
                )


def test_a_position_map_is_zero_outside_of_its_window():
    view = view_layers(backbone_of(scope=3), image((160, 112)), ["res4.1"])["res4.1"]
    maps = view.position_maps(4, 0)
    assert maps.shape[-2:] == (10, 7)
    there = maps.abs().sum(dim=(0, 1)) > 0
    assert there.nonzero().tolist() == [[y, x] for y in (3, 4, 5) for x in (0, 1)]
    with pytest.raises(InputError, match=r"res4\.1 has 10 x 7 positions"):
        view.position_maps(10, 0)


def test_how_many_positions_a_key_is_spread_over():
    backbone = backbone_of()
    layer = lambda_layers(backbone)["res4.1"]
    nn.init.zeros_(layer.key.weight)
    view = view_layers(backbone, image(), ["res4.1"])["res4.1"]
    assert view.attended == pytest.approx(15)
    nn.init.normal_(layer.key.weight, std=1)
    view = view_layers(backbone, image(), ["res4.1"])["res4.1"]
    spread = [
        math.exp(-sum(w * math.log(w) for w in key if w > 0))
        for key in view.key_weights.flatten(2)[0].tolist()
    ]
    assert view.attended == pytest.approx(sum(spread) / len(spread), rel=1e-9)
    assert (
        view_layers(backbone_of(key_normalizer="l2"), image(), ["res4.1"])["res4.1"].attended
        is None
    )


def test_names_of_layers():
    names = lambda_layers(build_lambda_resnet(50, "lambda_full", scope=3))
    assert list(names) == [f"res4.{i}" for i in range(6)] + [f"res5.{i}" for i in range(3)]
    assert choose_layers(names, None, "λ") == ["res4.5", "res5.2"]
    long = "backbone.bottom_up.res4.3.lambda_layer"
    assert choose_layers(names, ["res5.0", long, "res5.0"], "λ") == ["res5.0", "res4.3"]
    with pytest.raises(InputError, match=r"--layers res3\.0: lambda layers are in res4\.0, "):
        choose_layers(names, ["res3.0"], "λ")
    with pytest.raises(InputError, match="resnet-50 has no lambda layers"):
        choose_layers({}, None, "resnet-50")


@pytest.mark.parametrize(("stem", "offset"), [("rs", 6.0), ("v1", 0.0)])
def test_the_grid_is_where_the_shortcuts_lead(stem: str, offset: float):
    """An output that depends on shortcuts alone has gradients around its centre."""
    backbone = build_lambda_resnet(50, "resnet", stem=stem).double().eval()  # last norms are zero
    grid = grids(backbone)["res4"]
    assert grid == Grid(16, offset) and grids(backbone)["res4.0"].stride == 8
    pixels = image((129, 97)).requires_grad_(True)
    row, column = grid.position((64, 48), (9, 7))
    backbone(pixels)["res4"][0, :, row, column].sum().backward()
    mass = pixels.grad[0].abs().sum(0)
    for axis, index in ((1, row), (0, column)):
        line = mass.sum(axis)
        there = (line > 0).nonzero()
        middle = (there.min() + there.max()).item() / 2
        assert middle == pytest.approx(grid.pixel(index), abs=1.0)
