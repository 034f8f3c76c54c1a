"""The config of detectron2's own Mask R-CNN with FPN, of 3x on COCO."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_stock_cfg

# detectron2's configs/Base-RCNN-FPN.yaml and mask_rcnn_R_50_FPN_3x.yaml.
BASE = {
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "RPN.PRE_NMS_TOPK_TEST": 1000,
    "RPN.POST_NMS_TOPK_TRAIN": 1000,
    "RPN.POST_NMS_TOPK_TEST": 1000,
    "ROI_HEADS.NAME": "StandardROIHeads",
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 2,
    "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "ROI_MASK_HEAD.NUM_CONV": 4,
    "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MASK_ON": True,
}


def stock_config(depth: int, **changes: object) -> CfgNode:
    cfg = get_stock_cfg()
    for key, value in {**BASE, "RESNETS.DEPTH": depth, "DEVICE": "cpu", **changes}.items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    return cfg
