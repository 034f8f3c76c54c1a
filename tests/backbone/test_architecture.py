"""Names, placement and pieces of the family, as DESIGN.md and the paper fix them."""

from __future__ import annotations

import inspect

import pytest
from backbone_helpers import BLOCKS, STAGES, build_on_meta, lambda_blocks
from detectron2.layers import CNNBlockBase
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn

from lambda_det.backbone import build_lambda_resnet

RES4_BLOCKS = {
    50: [3],
    101: [6, 12, 18],
    152: [5, 10, 15, 20, 25, 30],
    200: [5, 10, 15, 20, 25, 30],
    270: [8, 16, 24, 32, 40, 48],
    350: [10, 20, 30, 40, 50, 60],
    420: [10, 20, 30, 40, 50, 60, 70, 80],
}


def every(depth: int, stage: str) -> list[int]:
    return list(range(1, BLOCKS[depth][STAGES.index(stage)] + 1))


def stages_with_se(backbone: nn.Module) -> list[str]:
    found = []
    for stage in STAGES:
        has = [any(n.startswith("se.") for n in b.state_dict()) for b in getattr(backbone, stage)]
        assert len(set(has)) == 1, f"SE in some blocks of {stage} only"
        found += [stage] if has[0] else []
    return found


def test_signature() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(build_lambda_resnet).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    expected = {
        "stem": "rs",
        "in_channels": 3,
        "norm": "BN",
        "out_features": ("res2", "res3", "res4", "res5"),
        "lambda_blocks": None,
        "se_stages": None,
        "se_ratio": 0.25,
        "stride_in_1x1": False,
        "num_classes": None,
        "freeze_at": 0,
        "drop_path_rate": 0.0,
        "dropout": 0.0,
        "shared_embeddings": False,
        "lambda_norm_qv": None,
    }
    assert {name: defaults.get(name, "absent") for name in expected} == expected
    assert list(inspect.signature(build_lambda_resnet).parameters)[:2] == ["depth", "variant"]


@pytest.mark.parametrize("depth", BLOCKS)
def test_blocks_per_stage_and_lambda_placement(depth: int) -> None:
    backbone = build_on_meta(depth, "lambda")
    assert isinstance(backbone, Backbone) and isinstance(backbone, ResNet)
    assert tuple(len(getattr(backbone, stage)) for stage in STAGES) == BLOCKS[depth]
    assert all(isinstance(b, CNNBlockBase) for s in STAGES for b in getattr(backbone, s))
    assert lambda_blocks(backbone) == {
        "res2": [],
        "res3": [],
        "res4": RES4_BLOCKS[depth],
        "res5": every(depth, "res5"),
    }


@pytest.mark.parametrize(
    ("variant", "se_stages", "lambda_stages"),
    [
        ("resnet", [], []),
        ("se", ["res2", "res3", "res4", "res5"], []),
        ("lambda", ["res2", "res3"], ["res5"]),
        ("lambda_full", ["res2", "res3"], ["res4", "res5"]),
    ],
)
def test_variants(variant: str, se_stages: list[str], lambda_stages: list[str]) -> None:
    backbone = build_on_meta(101, variant)
    assert stages_with_se(backbone) == se_stages
    expected = {stage: every(101, stage) if stage in lambda_stages else [] for stage in STAGES}
    if variant == "lambda":
        expected["res4"] = [6, 12, 18]
    assert lambda_blocks(backbone) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {}),
        ({"res4": "all"}, {"res4": [1, 2, 3, 4, 5, 6]}),
        ({"res4": []}, {"res4": []}),
        ({"res4": (2,), "res5": [1]}, {"res4": [2], "res5": [1]}),
        ({"res5": [3, 2]}, {"res5": [2, 3]}),
        ({"res2": "all", "res3": [4]}, {"res2": [1, 2, 3], "res3": [4]}),
        ({"res4": None}, {}),
    ],
    ids=str,
)
def test_lambda_blocks_override_the_variant(overrides, expected: dict) -> None:
    backbone = build_on_meta(50, "lambda", lambda_blocks=overrides)
    default = {"res2": [], "res3": [], "res4": [3], "res5": [1, 2, 3]}
    assert lambda_blocks(backbone) == default | expected
    assert stages_with_se(backbone) == ["res2", "res3"]


@pytest.mark.parametrize(("ratio", "squeezed"), [(0.25, 512), (0.0625, 128), (1.0, 2048)])
def test_se_layers(ratio: float, squeezed: int) -> None:
    block = build_on_meta(50, "se", se_ratio=ratio).res5[1]
    shapes = [tuple(p.shape) for p in block.se.parameters()]
    assert shapes == [(squeezed, 2048, 1, 1), (squeezed,), (2048, squeezed, 1, 1), (2048,)]


def names(module: nn.Module) -> set[str]:
    """First parts of the names in the state dict: what a checkpoint sees."""
    return {name.split(".")[0] for name in module.state_dict()}


def test_names_in_blocks() -> None:
    backbone = build_on_meta(50, "lambda", num_classes=10)
    assert names(backbone) == {"stem", *STAGES, "linear"}
    assert names(backbone.res2[0]) == {"conv1", "conv2", "conv3", "shortcut", "se"}
    assert names(backbone.res2[1]) == {"conv1", "conv2", "conv3", "se"}
    assert names(backbone.res4[1]) == {"conv1", "conv2", "conv3"}
    assert names(backbone.res4[2]) == {"conv1", "lambda_layer", "lambda_norm", "conv3"}
    assert names(backbone.res5[0]) == {"conv1", "lambda_layer", "lambda_norm", "conv3", "shortcut"}
    layer = names(backbone.res5[0].lambda_layer)
    assert layer == {"query", "key", "value", "query_norm", "value_norm", "embedding"}


@pytest.mark.parametrize(
    ("max_size", "res3", "res4"), [((128, 96), (32, 24), (16, 12)), ((130, 97), (33, 25), (17, 13))]
)
def test_global_scope_divides_the_image_by_the_stride(max_size, res3, res4) -> None:
    backbone = build_on_meta(
        50, "lambda", scope="global", max_size=max_size, lambda_blocks={"res3": "all"}
    )
    # The strided first block of a stage works at the resolution of the stage before.
    for block, (height, width) in (
        (backbone.res3[0], res3),
        (backbone.res3[1], res4),
        (backbone.res3[3], res4),
    ):
        assert block.lambda_layer.embedding.shape[2:] == (2 * height - 1, 2 * width - 1)


@pytest.mark.parametrize("stem", ["rs", "v1"])
@pytest.mark.parametrize(("in_1x1", "strides"), [(False, [1, 2]), (True, [2, 1])])
def test_where_a_block_strides(stem: str, in_1x1: bool, strides: list[int]) -> None:
    backbone = build_on_meta(50, "se", stem=stem, stride_in_1x1=in_1x1)
    for stage in (backbone.res3, backbone.res4, backbone.res5):
        assert [stage[0].conv1.stride[0], stage[0].conv2.stride[0]] == strides
        assert [stage[1].conv1.stride[0], stage[1].conv2.stride[0]] == [1, 1]
    assert backbone.res2[0].conv1.stride == backbone.res2[0].conv2.stride == (1, 1)
    assert backbone.res3[0].shortcut.stride == ((1, 1) if stem == "rs" else (2, 2))
    assert backbone.res2[1].shortcut is None
