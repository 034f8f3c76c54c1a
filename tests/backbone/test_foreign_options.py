"""Options that only weights of others need: off by default, and what they do when on."""

from __future__ import annotations

import pytest
import torch
from backbone_helpers import feature_size, image, randomise
from torch.nn import functional as F

from lambda_det.backbone import build_lambda_resnet

SMALL = {"depth": 50, "variant": "resnet", "out_features": ("stem", "res2")}


@pytest.mark.parametrize("stem", ["rs", "v1", "tiered"])
def test_activation_follows_every_norm(stem: str) -> None:
    x = image(1, 3, 33, 47)
    networks = {}
    for activation in ("relu", "silu"):
        network = build_lambda_resnet(**SMALL, stem=stem, activation=activation).eval()
        randomise(network)
        networks[activation] = network
    networks["silu"].load_state_dict(networks["relu"].state_dict())
    default = build_lambda_resnet(**SMALL, stem=stem).eval()
    default.load_state_dict(networks["relu"].state_dict())
    with torch.no_grad():
        relu, silu = networks["relu"](x), networks["silu"](x)
        assert torch.equal(default(x)["res2"], relu["res2"])
        assert relu["stem"].min() >= 0 and silu["res2"].min() < 0  # SiLU goes down to -0.28
        # one block by hand
        block, h = networks["silu"].res2[1], networks["silu"].res2[0](silu["stem"])
        y = F.silu(block.conv1(h))
        y = F.silu(block.conv2(y))
        expected = F.silu(block.conv3(y) + h)
        assert torch.allclose(block(h.clone()), expected, atol=1e-6)


def test_tiered_stem() -> None:
    stem = build_lambda_resnet(**SMALL, stem="tiered").stem.eval()
    shapes = [tuple(conv.weight.shape) for conv in (stem.conv1, stem.conv2, stem.conv3)]
    assert shapes == [(24, 3, 3, 3), (32, 24, 3, 3), (64, 32, 3, 3)]
    randomise(stem)
    x = image(2, 3, 45, 62)
    with torch.no_grad():
        y = x
        for conv, stride in ((stem.conv1, 2), (stem.conv2, 1), (stem.conv3, 1)):
            y = F.relu(conv.norm(F.conv2d(y, conv.weight, stride=stride, padding=1)))
        expected = F.max_pool2d(y, 3, 2, 1)
        assert torch.allclose(stem(x), expected, atol=1e-6)
    assert expected.shape[-2:] == feature_size(45, 62, 4)
    assert build_lambda_resnet(**SMALL, stem="tiered").res2[0].shortcut_pool is None


@pytest.mark.parametrize("side", [2, 3])
def test_pooling_of_a_strided_lambda_block(side: int) -> None:
    arguments = {"lambda_blocks": {"res3": [1]}, "scope": 3, "out_features": ("res3",)}
    network = build_lambda_resnet(50, "resnet", lambda_pool=side, **arguments).eval()
    block = network.res3[0]
    x = image(1, 128, 12, 18)
    with torch.no_grad():
        middle = block.lambda_layer(x)
        pooled = F.avg_pool2d(middle, 2, 2) if side == 2 else F.avg_pool2d(middle, 3, 2, 1)
        assert torch.allclose(block._middle(x), block.lambda_norm(pooled), atol=1e-6)
        for height, width in ((97, 131), (64, 96), (33, 34)):  # 2x2 must not round down
            features = network(image(1, 3, height, width))["res3"]
            assert features.shape[-2:] == feature_size(height, width, 8)
