"""Every member of the family without memory for weights: construction and forward."""

from __future__ import annotations

import time

import pytest
import torch
from backbone_helpers import CHANNELS, STAGES, STRIDES, build_on_meta, feature_size

from lambda_det.backbone import build_lambda_resnet


def test_construction_of_lambda_420_is_quick() -> None:
    start = time.perf_counter()
    with torch.device("meta"):
        backbone = build_lambda_resnet(420, "lambda")
    assert time.perf_counter() - start < 10
    assert all(parameter.is_meta for parameter in backbone.parameters())


@pytest.mark.parametrize("variant", ["resnet", "se", "lambda", "lambda_full"])
@pytest.mark.parametrize("depth", [50, 101, 152, 200, 270, 350, 420])
def test_forward(depth: int, variant: str) -> None:
    backbone = build_on_meta(depth, variant)
    with torch.no_grad():
        outputs = backbone.eval()(torch.empty(2, 3, 97, 131, device="meta"))
    assert list(outputs) == list(STAGES)
    for name, output in outputs.items():
        size = feature_size(97, 131, STRIDES[name])
        assert output.shape == (2, CHANNELS[name], *size) and output.is_meta
