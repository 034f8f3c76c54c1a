"""A tiny detector with random weights, and a tiny dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_detector import CONFIG, TINY

from lambda_det.configs import load_config
from lambda_det.data import configure_datasets, generate_shapes
from lambda_det.predict.predictor import Predictor


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "shapes"
    generate_shapes(folder, num_train=1, num_val=3, seed=0)
    return folder


@pytest.fixture(scope="session")
def detector_words(
    project: Path, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Of a detector with random weights whose scores differ from each other."""
    words = [*TINY, "DATASETS.COCO_FOLDER", str(shapes_folder)]
    cfg = load_config(str(project / CONFIG), words)
    configure_datasets(cfg, for_training=False)
    torch.manual_seed(3)
    model = build_model(cfg)
    with torch.no_grad():
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.fill_(0.3)  # the last of a block is 0: lambda layers would not count
        for parameter in model.roi_heads.box_predictor.cls_score.parameters():
            parameter.mul_(200)
        model.proposal_generator.rpn_head.objectness_logits.weight.mul_(100)
    weights = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save({"model": model.state_dict()}, weights)
    return [*words, "MODEL.WEIGHTS", str(weights)]


@pytest.fixture(scope="module")
def predictor(project: Path, detector_words: list[str]) -> Predictor:
    cfg = load_config(str(project / CONFIG), detector_words)
    configure_datasets(cfg, for_training=False)
    return Predictor(cfg)
