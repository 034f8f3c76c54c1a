"""Closed formulas of a lambda layer's multiply-adds against loops that count one by one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from lambda_det.analysis.flop_rules import PLAIN, FlopRule, LambdaShape
from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer

SIZES = [(1, 1), (5, 3), (2, 7)]


def multiplications(shape: LambdaShape, height: int, width: int, rule: FlopRule) -> dict[str, int]:
    """Every multiplication of the paper's sums, counted as it is met."""
    content = position = 0
    places = list(product(range(height), range(width)))
    rows, columns = shape.window or (2 * height - 1, 2 * width - 1)
    for _u, _k, _v, _place in product(range(shape.u), range(shape.k), range(shape.v), places):
        content += 1
    for _h, _k, _v, _place in product(range(shape.h), range(shape.k), range(shape.v), places):
        content += 1  # the content lambda on every query
    for y, x in places:
        if shape.window is not None and rule.window == "clipped":
            neighbours = [
                (dy, dx) for dy in range(min(rows, height)) for dx in range(min(columns, width))
            ]
        else:
            neighbours = [
                (dy, dx)
                for dy in range(-(rows // 2), rows // 2 + 1)
                for dx in range(-(columns // 2), columns // 2 + 1)
                if (0 <= y + dy < height and 0 <= x + dx < width)
                or (rule.window == "full" and shape.window is not None)
            ]
        for _ in neighbours:
            if rule.order == "lambda_first":
                position += shape.u * shape.k * shape.v
            else:
                position += shape.h * shape.u * shape.k + shape.h * shape.u * shape.v
        if rule.order == "lambda_first":
            position += shape.h * shape.k * shape.v
    return {"content_lambda": content, "position_lambda": position}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window", [(3, 3), (7, 5), (1, 1), None], ids=str)
@pytest.mark.parametrize("charged", ["full", "inside", "clipped"])
@pytest.mark.parametrize("order", ["lambda_first", "query_first"])
def test_sums_against_loops(size, window, charged: str, order: str) -> None:
    shape = LambdaShape(d=6, k=3, h=2, u=2, v=5, window=window)
    rule = FlopRule(window=charged, order=order)
    assert dict(shape.sums(*size, rule)) == multiplications(shape, *size, rule)


def test_shape_of_a_layer_and_its_projections() -> None:
    layer = LambdaLayer(
        12, 20, query_depth=3, num_heads=4, intra_depth=2, scope=5, position_bias=True
    )
    shape = LambdaShape.of(layer)
    assert shape == LambdaShape(d=12, k=3, h=4, u=2, v=5, window=(5, 5), bias=True)
    weights = layer.query.weight, layer.key.weight, layer.value.weight
    assert shape.projections(5, 7) == 5 * 7 * sum(weight.numel() for weight in weights)
    assert shape.sums(5, 7)["position_bias"] == 5 * 7 * 4 * 3


def test_parts_that_a_layer_does_not_have_are_not_counted() -> None:
    content = LambdaShape.of(LambdaLayer(8, position=False))
    assert set(content.sums(4, 4)) == {"content_lambda"}
    position = LambdaShape.of(LambdaLayer(8, content=False, scope="global", max_size=(9, 9)))
    assert set(position.sums(4, 4)) == {"position_lambda"} and position.window is None
    assert position.projections(1, 1) == 8 * (64 + 2)  # 4 heads of 16, 2 channels of values


def test_agrees_with_fvcores_own_count_where_it_can() -> None:
    """The "conv" back end, on an image that the window fits into, sizes that fvcore can print."""
    layer = LambdaLayer(
        8, query_depth=5, num_heads=2, intra_depth=2, scope=3, backend="conv", norm=""
    ).eval()
    x = torch.zeros(1, 8, 5, 7)
    plain = FlopCountAnalysis(layer, x).unsupported_ops_warnings(False)
    plain.uncalled_modules_warnings(False)
    shape = LambdaShape.of(layer)
    expected = shape.projections(5, 7) + sum(shape.sums(5, 7, PLAIN).values())
    assert expected == plain.total()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_multiply_add": 3}, "per_multiply_add=3: expected one of 1, 2"),
        ({"window": "half"}, "window='half': expected one of 'full', 'inside', 'clipped'"),
        ({"order": ""}, "order='': expected one of 'lambda_first', 'query_first'"),
    ],
)
def test_unknown_rule(arguments, message: str) -> None:
    with pytest.raises(InputError) as raised:
        FlopRule(**arguments)
    assert str(raised.value) == message
