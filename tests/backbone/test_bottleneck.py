"""One block at a time: the order of its pieces, its pooling and its initial state."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from backbone_helpers import STAGES, image, randomise
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet


@pytest.fixture(scope="module")
def fresh() -> nn.Module:
    """λ-50 as it is after building, with SE in every stage."""
    torch.manual_seed(0)
    return build_lambda_resnet(50, "lambda", scope=7, se_stages=STAGES)


@pytest.fixture(scope="module")
def network(fresh: nn.Module) -> nn.Module:
    """The same in float64 and evaluation mode, with norms that are neither 0 nor 1."""
    backbone = copy.deepcopy(fresh).double().eval()
    randomise(backbone)
    return backbone


def average_3x3(x: Tensor) -> Tensor:
    """AvgPool2d(3, 2, 1), padding counted: nine neighbours, zeros outside, every other position."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 2, 1, 2))
    shifted = [padded[..., y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return (sum(shifted) / 9)[..., ::2, ::2]


def average_2x2(x: Tensor) -> Tensor:
    """2x2 means in ceil mode, over the pixels that exist."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, width % 2, 0, height % 2), value=torch.nan)
    corners = [padded[..., i::2, j::2] for i in range(2) for j in range(2)]
    return torch.stack(corners).nanmean(0)


def convolution(conv: nn.Conv2d, x: Tensor, stride: int = 1) -> Tensor:
    """Without the norm that detectron2's Conv2d carries along."""
    return F.conv2d(x, conv.weight, stride=stride, padding=conv.weight.shape[-1] // 2)


def squeeze_and_excite(se: nn.Module, x: Tensor) -> Tensor:
    weight_1, bias_1, weight_2, bias_2 = se.parameters()
    squeezed = x.mean((2, 3)) @ weight_1.flatten(1).T + bias_1
    return x * torch.sigmoid(squeezed.relu() @ weight_2.flatten(1).T + bias_2)[..., None, None]


def block_by_hand(block: nn.Module, x: Tensor, *, stride: int, stem: str = "rs") -> Tensor:
    out = block.conv1.norm(convolution(block.conv1, x)).relu()
    if "lambda_layer.embedding" in block.state_dict():
        out = block.lambda_layer(out)
        out = average_3x3(out) if stride == 2 else out
        out = block.lambda_norm(out).relu()
    else:
        out = block.conv2.norm(convolution(block.conv2, out, stride)).relu()
    out = block.conv3.norm(convolution(block.conv3, out))
    if any(name.startswith("se.") for name in block.state_dict()):
        out = squeeze_and_excite(block.se, out)
    if block.shortcut is not None:
        if stem == "rs" and stride == 2:
            x, stride = average_2x2(x), 1
        x = block.shortcut.norm(convolution(block.shortcut, x, stride))
    return (out + x).relu()


@pytest.mark.parametrize(
    ("stage", "number", "channels", "stride"),
    [
        pytest.param("res2", 1, 64, 1, id="conv-projection"),
        pytest.param("res2", 2, 256, 1, id="conv-identity"),
        pytest.param("res4", 1, 512, 2, id="conv-strided"),
        pytest.param("res4", 3, 1024, 1, id="lambda-identity"),
        pytest.param("res5", 1, 1024, 2, id="lambda-strided"),
    ],
)
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2)], ids=str)
def test_block_equals_its_pieces(network, stage, number, channels, stride, size) -> None:
    block = getattr(network, stage)[number - 1]
    x = image(2, channels, *size).double().relu()
    expected = block_by_hand(block, x, stride=stride)
    assert expected.shape[-2:] == tuple(-(-side // stride) for side in size)
    torch.testing.assert_close(block(x.clone()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (33, 2)], ids=str)
def test_rs_stem_is_four_convolutions(network: nn.Module, size: tuple[int, int]) -> None:
    x = image(1, 3, *size).double()
    out = x
    convs = [module for module in network.stem.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in network.stem.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [tuple(conv.weight.shape[:2]) for conv in convs] == [
        (32, 3), (32, 32), (64, 32), (64, 64),
    ]  # fmt: skip
    for conv, norm, stride in zip(convs, norms, (2, 1, 1, 2), strict=True):
        out = norm(convolution(conv, out, stride)).relu()
    torch.testing.assert_close(network.stem(x), out)
    assert out.shape[-2:] == tuple(-(-side // 4) for side in size)


def test_stride_in_1x1_leaves_lambda_blocks_alone() -> None:
    # Their stride is the pooling behind the layer, whatever the convolutions do.
    backbone = build_lambda_resnet(50, "lambda", stride_in_1x1=True, scope=3).double().eval()
    randomise(backbone)
    x = image(1, 1024, 5, 3).double().relu()
    expected = block_by_hand(backbone.res5[0], x, stride=2)
    torch.testing.assert_close(backbone.res5[0](x.clone()), expected)


def test_buffer_of_a_frozen_norm_is_left_alone() -> None:
    backbone = build_lambda_resnet(50, "lambda", norm="FrozenBN", out_features=("res3",))
    for block in (*backbone.res2, *backbone.res3):
        assert isinstance(block.conv3.norm, FrozenBatchNorm2d)
        assert bool((block.conv3.norm.weight == 1).all())


def test_zero_comes_before_freezing() -> None:
    backbone = build_lambda_resnet(50, "lambda", freeze_at=2, out_features=("res3",))
    assert isinstance(backbone.res2[1].conv3.norm, FrozenBatchNorm2d)
    assert bool((backbone.res2[1].conv3.norm.weight == 0).all())
    assert bool((backbone.res2[1].conv1.norm.weight == 1).all())


@pytest.fixture(scope="module")
def dropping() -> nn.Module:
    torch.manual_seed(0)
    arguments = {"norm": "FrozenBN", "num_classes": 5, "out_features": ("linear",)}
    return build_lambda_resnet(50, "resnet", drop_path_rate=0.5, dropout=0.5, **arguments)


def test_drop_path_grows_with_depth(dropping: nn.Module) -> None:
    dropping.train()
    for block, channels, rate in (
        (dropping.res2[1], 256, 0.5 * 1 / 15),
        (dropping.res4[1], 1024, 0.5 * 8 / 15),
        (dropping.res5[2], 2048, 0.5),
    ):
        x = image(1, channels, 1, 1).relu().expand(400, -1, -1, -1).clone()
        with torch.no_grad():
            out = block(x.clone())
            whole = block.eval()(x[:1].clone())
        block.train()
        dropped = (out == x).flatten(1).all(1).float().mean().item()
        assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 400) ** 0.5)
        # A branch that is kept is scaled up: the mean stays.
        assert not torch.equal(whole, x[:1])


def test_dropout_and_drop_path_are_off_in_evaluation(dropping: nn.Module) -> None:
    x = image(2, 3, 32, 32)
    with torch.no_grad():
        first, second = (dropping.train()(x)["linear"] for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (dropping.eval()(x)["linear"] for _ in range(2))
    assert torch.equal(first, second)
