"""Closed formulas of a lambda layer's multiply-adds against loops that count one by one."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from fvcore.nn import FlopCountAnalysis

from lambda_det.layers import LambdaLayer
from studies.paper.flop_rules import PLAIN, FlopRule, LambdaShape

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
