"""detectron2's other detectors and heads on our backbone, from its own config files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from lambda_det.layers import LambdaLayer

pytestmark = pytest.mark.filterwarnings("ignore")
RETINANET = (
    "MODEL.BACKBONE.NAME", "build_retinanet_lambda_resnet_fpn_backbone",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[16],[32],[64],[96],[128]]",
)  # fmt: skip


def example(height: int, width: int) -> dict[str, object]:
    """One object, and a segmentation of stuff (class 1 over class 0)."""
    generator = torch.Generator().manual_seed(height)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[3.0, 4.0, 40.0, 44.0]]))
    instances.gt_classes = torch.tensor([1])
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[:, 5:40, 5:38] = True
    instances.gt_masks = BitMasks(masks)
    return {
        "image": (torch.rand(3, height, width, generator=generator) * 255).to(torch.uint8),
        "instances": instances,
        "sem_seg": masks[0].long(),
        "height": height,
        "width": width,
    }


def losses(model: nn.Module) -> dict[str, Tensor]:
    """Of a training step on two images of different sizes, with the backward pass."""
    model.train()
    with EventStorage():
        losses = model([example(64, 80), example(48, 64)])
    sum(losses.values()).backward()
    return {name: value.detach() for name, value in losses.items()}


def detections(model: nn.Module) -> dict[str, object]:
    model.eval()
    with torch.no_grad():
        return model([example(64, 80)])[0]


def check(model: nn.Module, expected: set[str]) -> None:
    """Losses are there and finite, and every parameter of the backbone learns from them."""
    assert any(isinstance(module, LambdaLayer) for module in model.modules())
    found = losses(model)
    assert expected <= found.keys()
    assert all(value.isfinite() for value in found.values()), found
    without = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())


def test_cascade_mask_rcnn(stock_config: Callable[..., CfgNode]) -> None:
    cfg = stock_config("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml")
    model = build_model(cfg)
    assert isinstance(model.roi_heads, CascadeROIHeads)
    check(model, {"loss_cls_stage0", "loss_box_reg_stage2", "loss_mask"})
    assert detections(model)["instances"].pred_masks.shape[1:] == (64, 80)


def test_panoptic_fpn(stock_config: Callable[..., CfgNode]) -> None:
    cfg = stock_config(
        "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    )  # fmt: skip
    model = build_model(cfg)
    check(model, {"loss_sem_seg", "loss_mask", "loss_rpn_cls"})
    output = detections(model)
    assert output["sem_seg"].shape == (2, 64, 80)
    segmentation, segments = output["panoptic_seg"]
    assert segmentation.shape == (64, 80) and isinstance(segments, list)


def test_retinanet(stock_config: Callable[..., CfgNode]) -> None:
    cfg = stock_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml", *RETINANET)
    model = build_model(cfg)
    # res2 feeds the later stages even where the neck does not take it
    check(model, {"loss_cls", "loss_box_reg"})
    assert detections(model)["instances"].has("scores")


def test_keypoint_rcnn(stock_config: Callable[..., CfgNode]) -> None:
    cfg = stock_config(
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
        "MODEL.ROI_HEADS.NUM_CLASSES", 1, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)",
    )  # fmt: skip
    output = detections(build_model(cfg))["instances"]
    assert output.pred_keypoints.shape[1:] == (17, 3)


def test_point_rend(stock_config: Callable[..., CfgNode]) -> None:
    # Packages of detectron2 have the project's code without its Base-PointRend-RCNN-FPN.yaml:
    # the keys below are that file's.
    point_rend = pytest.importorskip("detectron2.projects.point_rend")
    cfg = stock_config("Base-RCNN-FPN.yaml", prepare=point_rend.add_pointrend_config)
    cfg.merge_from_list(
        "MODEL.MASK_ON True MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES True "
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE '' MODEL.ROI_MASK_HEAD.NAME PointRendMaskHead "
        "MODEL.ROI_MASK_HEAD.FC_DIM 32 MODEL.ROI_MASK_HEAD.POINT_HEAD_ON True "
        "MODEL.ROI_MASK_HEAD.CONV_DIM 16 "  # that of FPN: the project's coarse head relies on it
        "MODEL.POINT_HEAD.FC_DIM 16 MODEL.POINT_HEAD.NUM_CLASSES 4".split()
    )
    model = build_model(cfg)
    assert isinstance(model.roi_heads.mask_head, point_rend.PointRendMaskHead)
    check(model, {"loss_mask", "loss_mask_point"})
    assert detections(model)["instances"].pred_masks.shape[1:] == (64, 80)
