"""The three registered builders, by name, as a config asks for them."""

from __future__ import annotations

import pytest
import torch
from backbone_helpers import image
from detectron2.config import CfgNode
from detectron2.modeling import FPN, build_backbone

from lambda_det import get_cfg
from lambda_det.backbone import LambdaResNet
from lambda_det.errors import InputError


def config(name: str, **keys) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.LAMBDA_RESNET.DEPTH = 50
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.merge_from_list([word for key, value in keys.items() for word in (key, value)])
    return cfg


@pytest.mark.parametrize(
    ("name", "inputs", "strides"),
    [
        (
            "build_lambda_resnet_fpn_backbone",
            ["res2", "res3", "res4", "res5"],
            {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64},
        ),
        (
            "build_retinanet_lambda_resnet_fpn_backbone",
            ["res3", "res4", "res5"],
            {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128},
        ),
    ],
)
def test_feature_pyramid(name: str, inputs: list[str], strides: dict[str, int]) -> None:
    torch.manual_seed(0)
    cfg = config(name, **{"MODEL.FPN.IN_FEATURES": inputs, "MODEL.FPN.NORM": "GN"})
    fpn = build_backbone(cfg)
    assert isinstance(fpn, FPN) and isinstance(fpn.bottom_up, LambdaResNet)
    assert fpn.size_divisibility == 32
    assert {level: shape.stride for level, shape in fpn.output_shape().items()} == strides
    assert {shape.channels for shape in fpn.output_shape().values()} == {32}
    height, width = 96, 160
    outputs = fpn.train()(image(2, 3, height, width))
    assert set(outputs) == set(strides)
    for level, stride in strides.items():
        size = -(-height // stride), -(-width // stride)
        assert outputs[level].shape == (2, 32, *size), level
        assert outputs[level].isfinite().all(), level
    sum(output.square().mean() for output in outputs.values()).backward()
    for parameter_name, parameter in fpn.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def on_meta(cfg: CfgNode):
    with torch.device("meta"):
        return build_backbone(cfg)


def test_fpn_keys_keep_their_meaning() -> None:
    fpn = on_meta(config("build_lambda_resnet_fpn_backbone", **{"MODEL.FPN.FUSE_TYPE": "avg"}))
    assert fpn._fuse_type == "avg"
    assert fpn.fpn_lateral2.weight.shape == (32, 256, 1, 1)
    fpn = on_meta(config("build_lambda_resnet_fpn_backbone", **{"MODEL.FPN.NORM": "BN"}))
    assert isinstance(fpn.fpn_output5.norm, torch.nn.BatchNorm2d)


@pytest.mark.parametrize("names", [["res3", "res4"], ["res2", "res6"], []], ids=str)
def test_feature_that_the_backbone_does_not_give(names: list[str]) -> None:
    cfg = config(
        "build_lambda_resnet_fpn_backbone",
        **{
            "MODEL.FPN.IN_FEATURES": names,
            "MODEL.LAMBDA_RESNET.OUT_FEATURES": ["res2", "res4", "res5"],
        },
    )
    with pytest.raises(InputError, match=r"MODEL\.FPN\.IN_FEATURES") as error:
        on_meta(cfg)
    assert "\n" not in str(error.value)


def test_retinanet_needs_res5() -> None:
    cfg = config(
        "build_retinanet_lambda_resnet_fpn_backbone",
        **{
            "MODEL.FPN.IN_FEATURES": ["res3", "res4"],
            "MODEL.LAMBDA_RESNET.OUT_FEATURES": ["res3", "res4"],
        },
    )
    with pytest.raises(InputError, match="res5") as error:
        on_meta(cfg)
    assert "\n" not in str(error.value)
