"""The ResNet-50 hybrids of the paper: any subset of the stages as lambda, stem v1."""

from __future__ import annotations

import itertools

import pytest
import torch
from backbone_helpers import BLOCKS, STAGES, build_on_meta, image, lambda_blocks, randomise
from detectron2.modeling import build_backbone
from torch import nn

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.shapes_only import shapes_only

SUBSETS = ["".join(letters) for letters in itertools.product("CL", repeat=4)]  # res2 ... res5


def builder_arguments(letters: str) -> dict:
    stages = [stage for stage, letter in zip(STAGES, letters, strict=True) if letter == "L"]
    return {"stem": "v1", "lambda_blocks": {stage: "all" for stage in stages}}


def from_config(letters: str) -> nn.Module:
    """By the keys that a YAML file or a command line sets."""
    cfg = get_cfg()
    words = ["MODEL.BACKBONE.NAME", "build_lambda_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", "0"]
    words += ["MODEL.LAMBDA_RESNET.DEPTH", "50", "MODEL.LAMBDA_RESNET.STEM", "v1"]
    words += ["MODEL.LAMBDA_RESNET.VARIANT", "resnet"]
    for number, letter in enumerate(letters, start=2):
        if letter == "L":
            words += [f"MODEL.LAMBDA_RESNET.LAMBDA_BLOCKS.RES{number}", "['all']"]
    cfg.merge_from_list(words)
    with shapes_only():
        return build_backbone(cfg)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("letters", SUBSETS)
def test_builder_and_config_agree(letters: str) -> None:
    backbone = build_on_meta(50, "resnet", **builder_arguments(letters))
    assert lambda_blocks(backbone) == {
        stage: list(range(1, number + 1)) if letter == "L" else []
        for stage, number, letter in zip(STAGES, BLOCKS[50], letters, strict=True)
    }
    assert not any(".se." in name for name in backbone.state_dict())
    assert shapes(from_config(letters)) == shapes(backbone)


@pytest.mark.parametrize("letters", ["LLLL", "CCLL", "LCCC", "CLCL"])
def test_forward(letters: str) -> None:
    torch.manual_seed(0)
    backbone = build_lambda_resnet(50, "resnet", scope=7, **builder_arguments(letters))
    randomise(backbone)
    with torch.no_grad():
        outputs = backbone(image(1, 3, 65, 97))
    sizes = [tuple(x.shape[1:]) for x in outputs.values()]
    assert sizes == [(256, 17, 25), (512, 9, 13), (1024, 5, 7), (2048, 3, 4)]
    assert all(x.isfinite().all() and x.std() > 0 for x in outputs.values())


def test_single_blocks_count_from_one() -> None:
    backbone = build_on_meta(50, "resnet", stem="v1", lambda_blocks={"res4": [1, 6], "res2": [3]})
    assert [block.lambda_layer is not None for block in backbone.res4] == [True, *[False] * 4, True]
    assert [block.lambda_layer is not None for block in backbone.res2] == [False, False, True]
