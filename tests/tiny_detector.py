"""The config of a detector that is small enough to be built by the dozen."""

CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
TINY = (
    # A whole LambdaResNet-50, everything around it as small as it gets.
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 "
    "MODEL.FPN.OUT_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 32 "
    "MODEL.ROI_MASK_HEAD.NUM_CONV 1 MODEL.ROI_BOX_HEAD.CONV_DIM 32 MODEL.ROI_BOX_HEAD.NUM_CONV 1 "
    "MODEL.RPN.POST_NMS_TOPK_TEST 10 SOLVER.WARMUP_ITERS 0 SEED 1 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0"
).split()
