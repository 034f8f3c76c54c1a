"""The keys and files that the tests of this folder start from."""

from __future__ import annotations

from pathlib import Path

import detectron2

# A whole λ network of 26 layers, and everything around it as small as it gets.
SMALL = (
    "MODEL.DEVICE cpu MODEL.WEIGHTS '' MODEL.BACKBONE.FREEZE_AT 0 MODEL.LAMBDA_RESNET.DEPTH 26 "
    "MODEL.LAMBDA_RESNET.LAYER.SCOPE 5 MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_HEADS.NUM_CLASSES 4 "
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN 20 MODEL.RPN.POST_NMS_TOPK_TRAIN 8 "
    "MODEL.RPN.PRE_NMS_TOPK_TEST 20 MODEL.RPN.POST_NMS_TOPK_TEST 5 "
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 "
    "MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 32 MODEL.ROI_MASK_HEAD.NUM_CONV 1 "
    "MODEL.RETINANET.NUM_CLASSES 4 MODEL.RETINANET.NUM_CONVS 1 "
    "MODEL.RETINANET.SCORE_THRESH_TEST 0.0 TEST.DETECTIONS_PER_IMAGE 5 "
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 128 "
    "TEST.AUG.MIN_SIZES (32,64) TEST.AUG.MAX_SIZE 100 "
    "INPUT.MASK_FORMAT bitmask SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.001 "
    "SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0"
).split()
FPN = "MODEL.BACKBONE.NAME", "build_lambda_resnet_fpn_backbone"


def stock_configs() -> Path:
    """The folder with detectron2's own configs: in the package, or beside it in a checkout."""
    package = Path(detectron2.__file__).resolve().parent
    folders = [package / "model_zoo" / "configs", package.parent / "configs"]
    return next(folder for folder in folders if (folder / "Base-RCNN-FPN.yaml").is_file())
