"""From the keys of a config to the modules, and the errors that name a key."""

from __future__ import annotations

import copy
import logging
from typing import Any

import detectron2.config
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn

from lambda_det import get_cfg
from lambda_det.errors import InputError

NODE = "MODEL.LAMBDA_RESNET"


def set_keys(**keys: Any) -> CfgNode:
    """Our config with ``DEPTH=50``, a bare backbone and these keys of the node."""
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_lambda_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.LAMBDA_RESNET.DEPTH = 50
    for key, value in keys.items():
        cfg.merge_from_list([f"{NODE}.{key.replace('__', '.')}", value])
    return cfg


def build(cfg: CfgNode) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(cfg)


def lambda_numbers(stage: nn.Module) -> list[int]:
    return [i for i, block in enumerate(stage, 1) if block.lambda_layer is not None]


def test_blocks_reach_the_stages() -> None:
    backbone = build(
        set_keys(LAMBDA_BLOCKS__RES3="[2, 4]", LAMBDA_BLOCKS__RES4="[]", LAMBDA_BLOCKS__RES5="[1]")
    )
    numbers = [lambda_numbers(getattr(backbone, f"res{i}")) for i in range(2, 6)]
    assert numbers == [[], [2, 4], [], [1]]
    backbone = build(set_keys(LAMBDA_BLOCKS__RES2="['all']", LAMBDA_BLOCKS__RES4="('all',)"))
    numbers = [lambda_numbers(getattr(backbone, f"res{i}")) for i in range(2, 6)]
    assert numbers == [[1, 2, 3], [], [1, 2, 3, 4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize(
    ("word", "stages"),
    [("None", [2, 3]), ("[]", []), ("['res5']", [5]), ("['res3','res2']", [2, 3])],
)
def test_se_stages_reach_the_blocks(word: str, stages: list[int]) -> None:
    backbone = build(set_keys(SE_STAGES=word))
    found = [i for i in range(2, 6) if getattr(backbone, f"res{i}")[1].se is not None]
    assert found == stages


def test_layer_keys_reach_every_lambda_layer() -> None:
    cfg = set_keys(
        VARIANT="lambda_full",
        LAYER__QUERY_DEPTH="8",
        LAYER__NUM_HEADS="2",
        LAYER__INTRA_DEPTH="3",
        LAYER__SCOPE="7",
        LAYER__KEY_NORMALIZER="l2",
        LAYER__QUERY_NORMALIZER="softmax",
        LAYER__POSITION_BIAS="True",
        LAYER__SHARED_EMBEDDINGS="True",
        LAYER__BACKEND="reference",
        LAYER__AUTOTUNE="False",
        LAYER__NORM="GN",
    )
    backbone = build(cfg)
    for block in (*backbone.res4, *backbone.res5):
        layer = block.lambda_layer
        assert (layer.query_depth, layer.num_heads, layer.intra_depth) == (8, 2, 3)
        assert layer.embedding.shape == (8, 3, 7, 7) and layer.position_bias.shape == (8,)
        assert (layer.key_normalizer, layer.query_normalizer) == ("l2", "softmax")
        assert layer.backend == "reference" and not layer.autotune
        assert isinstance(layer.query_norm, nn.GroupNorm)
        assert isinstance(layer.value_norm, nn.GroupNorm)
        assert isinstance(block.lambda_norm, nn.BatchNorm2d)
    assert backbone.res5[1].lambda_layer.embedding is backbone.res5[2].lambda_layer.embedding


def test_content_and_position_reach_the_layers() -> None:
    names = build(set_keys(LAYER__CONTENT="False")).res5[0].state_dict()
    assert "lambda_layer.key.weight" not in names and "lambda_layer.embedding" in names
    names = build(set_keys(LAYER__POSITION="False")).res5[0].state_dict()
    assert "lambda_layer.key.weight" in names and "lambda_layer.embedding" not in names
    names = build(set_keys(LAYER__NORM="")).res5[0].state_dict()
    assert not any("query_norm" in name or "value_norm" in name for name in names)


def test_other_keys_reach_the_backbone() -> None:
    cfg = set_keys(
        VARIANT="se",
        STEM="v1",
        NORM="FrozenBN",
        OUT_FEATURES="['res3', 'stem']",
        SE_RATIO="0.5",
        STRIDE_IN_1X1="True",
    )
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0], [1.0]
    backbone = build(cfg)
    assert tuple(backbone.stem.conv1.weight.shape) == (64, 1, 7, 7)
    assert isinstance(backbone.stem.conv1.norm, FrozenBatchNorm2d)
    assert set(backbone.output_shape()) == {"res3", "stem"} and not hasattr(backbone, "res4")
    assert backbone.res3[0].conv1.stride == (2, 2)
    assert next(iter(backbone.res3[0].se.parameters())).shape[0] == 256


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"DEPTH": "34"}, ["DEPTH", "34", "101"]),
    ({"VARIANT": "lamda"}, ["VARIANT", "lamda", "lambda_full"]),
    ({"NORM": "bn"}, ["NORM", "bn", "FrozenBN"]),
    ({"LAMBDA_BLOCKS__RES2": "[4]"}, ["LAMBDA_BLOCKS.RES2: ", "4", "1 to 3"]),
    ({"LAMBDA_BLOCKS__RES5": "['all', 1]"}, ["LAMBDA_BLOCKS.RES5: ", "all"]),
    ({"LAMBDA_BLOCKS__RES5": "every"}, ["LAMBDA_BLOCKS.RES5=", "every"]),
    ({"SE_STAGES": "res2"}, ["SE_STAGES", "res2"]),
    ({"LAYER__NUM_HEADS": "3"}, ["LAYER.NUM_HEADS", "3"]),
    ({"LAYER__SCOPE": "0"}, ["LAYER.MAX_SIZE"]),
    ({"LAYER__SCOPE": "0", "LAYER__MAX_SIZE": "256"}, ["LAYER.MAX_SIZE", "256"]),
    ({"LAYER__NORM": "bn"}, ["LAYER.NORM", "bn"]),
    ({"LAYER__BACKEND": "cuda"}, ["LAYER.BACKEND", "cuda", "conv"]),
    ({"LAYER__CONTENT": "False", "LAYER__POSITION": "False"}, ["LAYER.CONTENT"]),
]


@pytest.mark.parametrize(("keys", "expected"), WRONG, ids=str)
def test_wrong_value_names_the_key(keys: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build(set_keys(**keys))
    message, (key, *parts) = str(error.value), expected
    assert f"{NODE}.{key}" in message and "\n" not in message
    assert all(part.lower() in message.lower() for part in parts), message


@pytest.mark.parametrize("freeze_at", [-1, 6])
def test_wrong_freeze_at(freeze_at: int) -> None:
    cfg = set_keys()
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    with pytest.raises(InputError, match=rf"MODEL\.BACKBONE\.FREEZE_AT.*{freeze_at}") as error:
        build(cfg)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "build_lambda_resnet_backbone",
        "build_lambda_resnet_fpn_backbone",
        "build_retinanet_lambda_resnet_fpn_backbone",
    ],
)
def test_without_our_keys_the_error_says_how_to_add_them(name: str) -> None:
    cfg = detectron2.config.get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    with pytest.raises(InputError, match="add_lambda_config") as error:
        build(cfg)
    assert "\n" not in str(error.value)


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING)


@pytest.mark.parametrize(
    ("key", "value"), [("DEPTH", 152), ("NORM", "GN"), ("WIDTH_PER_GROUP", 4), ("NUM_GROUPS", 32)]
)
def test_a_resnets_key_that_is_ignored_is_a_warning(key: str, value: Any, caplog) -> None:
    cfg = set_keys()
    setattr(cfg.MODEL.RESNETS, key, value)
    build(cfg)
    assert f"MODEL.RESNETS.{key}" in warnings(caplog) and str(value) in warnings(caplog)


def test_no_warning_about_defaults(caplog) -> None:
    build(set_keys())
    assert warnings(caplog) == ""


def test_config_is_not_changed_by_building() -> None:
    cfg = set_keys(LAMBDA_BLOCKS__RES4="[1]", LAYER__SCOPE="0", LAYER__MAX_SIZE="[64, 64]")
    before = copy.deepcopy(cfg)
    build(cfg)
    assert cfg == before
    cfg.freeze()
    build(cfg)
