"""A wrong argument of build_lambda_resnet is one line that names it, the value and the choice."""

from __future__ import annotations

import pytest
import torch

from lambda_det.backbone import build_lambda_resnet
from lambda_det.errors import InputError


def build(arguments: dict):
    with torch.device("meta"):
        return build_lambda_resnet(**({"depth": 50, "variant": "lambda"} | arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"depth": 34}, ["depth", "34", "50", "101", "152", "420"]),
        ({"variant": "Lambda"}, ["variant", "Lambda", "lambda_full", "resnet", "se"]),
        ({"stem": "deep"}, ["stem", "deep", "rs", "v1"]),
        ({"activation": "gelu"}, ["activation", "gelu", "relu", "silu"]),
        ({"lambda_pool": 4}, ["lambda_pool", "4", "3", "2"]),
        ({"norm": "bn"}, ["norm", "bn", "FrozenBN"]),
        ({"lambda_norm_qv": "bn"}, ["lambda_norm_qv", "bn"]),
        ({"out_features": ()}, ["out_features"]),
        ({"out_features": "res4"}, ["out_features", "res4"]),
        ({"out_features": ("res1",)}, ["out_features", "res1", "res5"]),
        ({"out_features": ("linear",)}, ["out_features", "linear"]),
        ({"lambda_blocks": {"res6": "all"}}, ["lambda_blocks", "res6", "res5"]),
        ({"lambda_blocks": {"res4": [0]}}, ["lambda_blocks", "res4", "0", "6"]),
        ({"lambda_blocks": {"res4": ["3"]}}, ["lambda_blocks", "res4", "'3'"]),
        ({"lambda_blocks": {"res4": "every"}}, ["lambda_blocks", "res4", "every", "all"]),
        ({"lambda_blocks": "all"}, ["lambda_blocks", "all"]),
        ({"se_stages": ("res6",)}, ["se_stages", "res6", "res5"]),
        ({"se_stages": "res2"}, ["se_stages", "res2"]),
        ({"se_ratio": 0}, ["se_ratio", "0"]),
        ({"se_ratio": 1.5}, ["se_ratio", "1.5"]),
        ({"num_classes": 0}, ["num_classes", "0"]),
        ({"freeze_at": 6}, ["freeze_at", "6", "5"]),
        ({"freeze_at": "2"}, ["freeze_at", "'2'"]),
        ({"drop_path_rate": 1.0}, ["drop_path_rate", "1.0"]),
        ({"dropout": 1.0}, ["dropout", "1.0"]),
        ({"scope": 22}, ["scope", "22", "odd"]),
        ({"scope": "global", "max_size": (0, 64)}, ["max_size", "0"]),
    ],
    ids=str,
)
def test_wrong_value(arguments: dict, expected: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build(arguments)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in expected), message


def test_heads_must_divide_in_every_lambda_block() -> None:
    build({"num_heads": 128})  # 256 and 512 channels
    with pytest.raises(InputError, match="num_heads=128"):
        build({"num_heads": 128, "lambda_blocks": {"res2": [1]}})


@pytest.mark.parametrize("variant", ["lambda", "resnet"])
@pytest.mark.parametrize("name", ["heads", "out_channels", "shared_embedding"])
def test_unknown_keyword(variant: str, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        build({"variant": variant, name: 1})


def test_depth_and_variant_are_needed() -> None:
    with pytest.raises(TypeError):
        build_lambda_resnet(50)
    with pytest.raises(TypeError):
        build_lambda_resnet(50, "lambda", "rs")  # options are keyword-only
