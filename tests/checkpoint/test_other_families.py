"""Networks of other families under our own names are refused, by name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from stock_mask_rcnn import stock_config
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.conversion import convert
from lambda_det.checkpoint.translation import translate
from lambda_det.errors import InputError

BODY = "backbone.bottom_up."


def resnet(**arguments: object) -> nn.Module:
    return build_lambda_resnet(26, "resnet", stem="v1", **arguments)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return {BODY + name: tensor for name, tensor in resnet().state_dict().items()}


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("res3.0.conv2_offset.weight", (18, 128, 3, 3), f"contains '{BODY}res3.0.conv2_offset.w"),
        ("res3.0.conv2.offset.weight", (18, 128, 3, 3), f"contains '{BODY}res3.0.conv2.offset.w"),
        ("res2.0.attn.weight", (1,), "which the networks of lambda_det do not have"),
        ("stem.conv1.scale", (1,), "which the networks of lambda_det do not have"),
        ("res2.0.conv2.weight", (256, 8, 3, 3), "ResNeXt; res2.0.conv2.weight"),
        ("res2.0.conv2.weight", (128, 128, 3, 3), "Wide ResNet"),
    ],
)
def test_refused_by_name(state, tmp_path: Path, name: str, shape: tuple, words: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": state | {BODY + name: torch.zeros(shape)}}, path)
    for complete in (False, True):
        with pytest.raises(InputError) as error:
            load_weights(resnet(), str(path), complete=complete)
        assert str(error.value).startswith(f"MODEL.WEIGHTS='{path}': ") and words in str(
            error.value
        )
    with pytest.raises(InputError, match=r"^w\.pth: "):
        convert(translate("w.pth", torch.load(path, weights_only=True)))


def test_basic_blocks(state) -> None:
    names = [name for name in state if ".conv3." not in name]
    with pytest.raises(InputError, match=r"^w\.pth: has basic blocks \(ResNet-18, ResNet-34\)"):
        convert(translate("w.pth", {name: state[name] for name in names}))


def test_what_the_model_has_is_loaded(state, tmp_path: Path) -> None:
    """A backbone that a user has extended, and detectron2's own of other families."""
    extended = resnet()
    extended.res2[0].register_parameter("gate", nn.Parameter(torch.zeros(2)))
    torch.save(copy.deepcopy(extended).state_dict(), tmp_path / "own.pth")
    assert not load_weights(extended, str(tmp_path / "own.pth"), complete=True).random()

    groups = {"RESNETS.NUM_GROUPS": 32, "RESNETS.WIDTH_PER_GROUP": 8, "RESNETS.NORM": "BN"}
    cfg = stock_config(50, **groups, **{"RESNETS.OUT_FEATURES": ["res3"]})
    stock = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    assert stock.res2[0].conv2.groups == 32
    torch.save(stock.state_dict(), tmp_path / "stock.pth")
    assert not load_weights(stock, str(tmp_path / "stock.pth"), complete=True).random()


@pytest.mark.slow
def test_every_variant_passes() -> None:
    for variant in ("resnet", "se", "lambda"):
        for arguments in ({}, {"norm": "GN"}, {"position_bias": True, "num_classes": 3}):
            if variant != "lambda":
                arguments = {k: v for k, v in arguments.items() if k != "position_bias"}
            for stem in ("rs", "v1", "tiered"):
                network = build_lambda_resnet(26, variant, stem=stem, **arguments)
                translate("w.pth", network.state_dict()).refuse_other_families()
