"""A layer of a user's own, which a module registers and a config names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lambda_det.backbone import LAYER_REGISTRY, build_lambda_resnet
from lambda_det.commands import analyze_model, convert_weights, pretrain

CONFIG = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"
KEYS = ["MODEL.LAMBDA_RESNET.DEPTH", "26", "MODEL.LAMBDA_RESNET.LAYER.KIND", "layer_of_a_test"]
MODULE = """
from torch import nn
from lambda_det.backbone import LAYER_REGISTRY

@LAYER_REGISTRY.register()
def layer_of_a_test(channels):
    return nn.Conv2d(channels, channels, 5, padding=2)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module in the current folder that registers a layer."""
    name = "module_of_own_layers"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(LAYER_REGISTRY, "_obj_map", dict(LAYER_REGISTRY._obj_map))
    yield name
    sys.modules.pop(name, None)


def test_commands_build_it_with_import_only(module: str, capsys) -> None:
    words = ["--config-file", CONFIG, "--size", "64", "64", *KEYS]
    assert analyze_model.main(words) == 2
    said = capsys.readouterr().err
    assert "LAYER.KIND='layer_of_a_test': expected one of 'lambda', 'global_att" in said
    assert "--import MODULE" in said and said.count("\n") == 1
    assert analyze_model.main(["--import", module, *words]) == 0


def test_its_weights_are_converted(module: str, capsys) -> None:
    words = ["--config-file", CONFIG, "in.pth", "out.pth"]
    torch.save({"model": build_lambda_resnet(26, "lambda", kind=_layer).state_dict()}, "in.pth")
    assert convert_weights.main([*words, *KEYS]) == 2
    assert "--import MODULE" in capsys.readouterr().err
    assert convert_weights.main(["--import", module, *words, *KEYS]) == 0
    # What was converted says which layer it has, and is read without a config.
    assert convert_weights.main(["out.pth", "again.pth"]) == 0
    capsys.readouterr()
    LAYER_REGISTRY._obj_map.pop("layer_of_a_test")
    assert convert_weights.main(["out.pth", "again.pth"]) == 2
    assert "name the config" in capsys.readouterr().err


def test_pretraining_imports_it(module: str, capsys) -> None:
    words = ["--data", "no_such_folder", "--config-file", "pretrain/lambda_R_50_shapes_cpu", *KEYS]
    for name in (module, "absent_module"):
        assert pretrain.main(["--import", name, *words]) == 2
    assert "layer_of_a_test" in LAYER_REGISTRY
    assert "--import absent_module: cannot be imported" in capsys.readouterr().err


def _layer(channels: int) -> torch.nn.Module:
    return torch.nn.Conv2d(channels, channels, 5, padding=2)
