"""A safetensors file is weights wherever a ``.pth`` is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_detector import CONFIG, TINY

from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.image_format import IMAGENET
from lambda_det.checkpoint.own_files import write_weights
from lambda_det.checkpoint.translation import read_and_translate
from lambda_det.configs import load_config
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.errors import InputError

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def test_a_detector(tmp_path: Path) -> None:
    """As evaluate, predict, export_model and train_net load it, and detectron2's checkpointer."""
    cfg = load_config(CONFIG, [*TINY, "MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", "3"])
    one, other, third = (build_model(cfg) for _ in range(3))
    path = str(tmp_path / "detector.safetensors")
    safetensors.save_file(one.state_dict(), path)
    load_weights(other, path, complete=True, cfg=cfg)
    RunCheckpointer(third, str(tmp_path)).load(path)
    for name, tensor in one.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(other.state_dict()[name], tensor), name
            assert torch.equal(third.state_dict()[name], tensor), name


def test_metadata_come_back(tmp_path: Path) -> None:
    path, architecture = str(tmp_path / "w.safetensors"), {"depth": 50, "variant": "resnet"}
    tensors = {"res2.0.conv1.weight": torch.rand(3), "stem.conv1.weight": torch.rand(2)}
    write_weights(path, tensors, architecture=architecture, images=IMAGENET, origin="test")
    found = read_and_translate(path)
    assert found.declared == architecture and found.images == IMAGENET
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["lambda_det"])["origin"] == "test"


def test_without_the_package_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match=r"pip install safetensors, or write a \.pth"):
        write_weights(
            str(tmp_path / "w.safetensors"), {}, architecture={}, images=None, origin="test"
        )
    assert not list(tmp_path.iterdir())
