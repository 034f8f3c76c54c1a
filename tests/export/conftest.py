"""A small detector with λ, SE and weights that are far from those it starts with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from lambda_det.configs import load_config

CHANGES = (
    *("MODEL.LAMBDA_RESNET.DEPTH", "26", "MODEL.LAMBDA_RESNET.LAYER.SCOPE", "5"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.RPN.POST_NMS_TOPK_TEST", "30"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "3", "TEST.DETECTIONS_PER_IMAGE", "20"),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32"),
)


@pytest.fixture(scope="session")
def small_config(project: Path) -> Path:
    return project / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


@pytest.fixture(scope="session")
def small_cfg(small_config: Path, tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    """Its ``MODEL.WEIGHTS`` are a file."""
    cfg = load_config(str(small_config), CHANGES)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, child in model.named_modules():
        for key, tensor in [*child.named_parameters(recurse=False), *child.named_buffers()]:
            if key == "running_var" or (key == "weight" and tensor.dim() == 1):
                nn.init.uniform_(tensor.data, 0.5, 1)
            elif key == "running_mean":
                nn.init.normal_(tensor.data, std=0.1)
        if name.endswith(("cls_score", "objectness_logits", "mask_head.predictor")):
            nn.init.normal_(child.weight, std=0.3)
        elif name.endswith(("bbox_pred", "anchor_deltas")):
            nn.init.normal_(child.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"model": model.state_dict()}, path)
    cfg.MODEL.WEIGHTS = str(path)
    return cfg
