"""Every depth and variant: a forward on an odd size, on the CPU and on the meta device."""

from __future__ import annotations

import pytest
import torch
from backbone_helpers import BLOCKS, CHANNELS, STAGES, STRIDES, feature_size, image, randomise

from lambda_det.backbone import build_lambda_resnet

VARIANTS = ("resnet", "se", "lambda", "lambda_full")
SIZE = (97, 131)
ON_THE_CPU = (50, 101, 152)


def expected_shapes(batch: int) -> dict[str, tuple[int, ...]]:
    return {name: (batch, CHANNELS[name], *feature_size(*SIZE, STRIDES[name])) for name in STAGES}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", ON_THE_CPU)
def test_on_the_cpu(depth: int, variant: str) -> None:
    torch.manual_seed(0)
    backbone = build_lambda_resnet(depth, variant)
    randomise(backbone)  # as built, every block is its shortcut
    with torch.no_grad():  # training: made-up running statistics would let lambda layers explode
        outputs = backbone(image(1, 3, *SIZE))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == expected_shapes(1)
    for name, x in outputs.items():
        assert x.isfinite().all(), name
        assert (x >= 0).all() and x.std() > 0, name  # behind a ReLU, and not constant


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", [depth for depth in BLOCKS if depth not in ON_THE_CPU])
def test_on_the_meta_device(depth: int, variant: str) -> None:
    with torch.device("meta"):
        backbone = build_lambda_resnet(depth, variant, num_classes=1000).eval()
    with torch.no_grad():
        outputs = backbone(torch.empty(2, 3, *SIZE, device="meta"))
    assert {name: tuple(x.shape) for name, x in outputs.items()} == expected_shapes(2)
