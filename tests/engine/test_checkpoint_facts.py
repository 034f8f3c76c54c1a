"""Checkpoints of a training say what images and what stride they were trained with."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tiny_detector import CONFIG, TINY

from lambda_det.backbone import build_detector
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.image_format import IMAGENET, ImageFormat
from lambda_det.checkpoint.translation import read_and_translate
from lambda_det.configs import load_config
from lambda_det.engine import parts_from_cfg, parts_from_lazy
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.lazy_config import load_lazy_config

STRIDE = "MODEL.LAMBDA_RESNET.STRIDE_IN_1X1"


@pytest.fixture(scope="module")
def checkpoint(project: Path, shapes_folder: Path, tmp_path_factory) -> tuple[str, list[str]]:
    """A file of a training, and the words of its config."""
    folder = tmp_path_factory.mktemp("facts")
    words = [*TINY, "DATASETS.COCO_FOLDER", str(shapes_folder), "OUTPUT_DIR", str(folder)]
    words += [STRIDE, "True"]
    parts, options = parts_from_cfg(load_config(str(project / CONFIG), words))
    saver = RunCheckpointer(parts.model, options.output_dir, metadata=parts.metadata)
    saver.save("model_final", trainer={})
    assert saver.resume() == str(folder / "model_final.pth")
    return str(folder / "model_final.pth"), words


def load(project: Path, checkpoint: tuple[str, list[str]], *words: str) -> torch.Tensor:
    """The first convolution, after loading into the config with other words."""
    cfg = load_config(str(project / CONFIG), [*checkpoint[1], *words])
    model = build_detector(cfg)
    load_weights(model, checkpoint[0], cfg=cfg)
    return model.backbone.bottom_up.stem.conv1.weight.detach()


def test_the_file_is_compared_with_the_config(project: Path, checkpoint, caplog) -> None:
    saved = torch.load(checkpoint[0], weights_only=True)["model"]
    saved = saved["backbone.bottom_up.stem.conv1.weight"]
    with caplog.at_level(logging.INFO):
        assert torch.equal(load(project, checkpoint), saved)
    assert not any(word in caplog.text for word in ("exchanged", "unknown", "was trained with"))
    caplog.clear()
    bgr = ("INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", str(list(IMAGENET.pixel_mean[::-1])))
    bgr += ("MODEL.PIXEL_STD", str(list(IMAGENET.pixel_std[::-1])))
    with caplog.at_level(logging.INFO):
        assert torch.equal(load(project, checkpoint, *bgr, STRIDE, "False"), saved.flip(1))
    assert "was trained on RGB images, but INPUT.FORMAT is 'BGR'" in caplog.text
    assert f"stride_in_1x1=True, but {STRIDE} is False; set {STRIDE} to True" in caplog.text


def test_the_network_is_inferred_as_before(checkpoint) -> None:
    """The entry has no architecture, so that nothing of the training, such as what it froze,
    becomes a fact about the network."""
    weights = read_and_translate(checkpoint[0])
    assert weights.declared is None
    found = weights.architecture()
    assert (found["depth"], found["variant"], found["stride_in_1x1"]) == (50, "lambda", True)
    assert not found.keys() & {"freeze_at", "norm", "out_features"}


def test_a_lazy_config_writes_the_same(project: Path, shapes_folder: Path, tmp_path: Path) -> None:
    words = [f"train.output_dir={tmp_path}", f"train.coco_folder={shapes_folder}"]
    lazy = load_lazy_config(str(project / CONFIG.replace(".yaml", ".py")), words)
    (described,) = parts_from_lazy(lazy)[0].metadata.values()
    assert described["hidden"]["stride_in_1x1"] is False
    assert ImageFormat.from_dict(described["images"]) == IMAGENET


def test_another_backbone_has_no_such_arguments(make_training, tmp_path: Path) -> None:
    (described,) = make_training(tmp_path).parts.metadata.values()
    assert described["hidden"] == {} and described["images"]["channel_order"] == "RGB"
