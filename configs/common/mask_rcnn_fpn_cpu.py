# Small images and heads, to learn something in minutes on a CPU: _base/mask_rcnn_fpn_cpu.yaml,
# which says why the heads are as they are.
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from .coco import dataloader
from .models.mask_rcnn_fpn import model
from .train import optimizer, train

model.backbone.bottom_up.update(depth=50, norm="BN", zero_init_residual=False, autotune=False)
model.backbone.update(out_channels=64, norm="BN")
rpn, heads = model.proposal_generator, model.roi_heads
rpn.head.in_channels = 64
rpn.anchor_generator.sizes = [[16], [32], [64], [96], [160]]
rpn.update(batch_size_per_image=64, pre_nms_topk=(200, 200), post_nms_topk=(100, 100))
heads.update(batch_size_per_image=32, positive_fraction=0.5)
heads.box_head.update(
    input_shape=ShapeSpec(channels=64, height=7, width=7),
    conv_dims=[64, 64],
    fc_dims=[256],
    conv_norm="GN",
)
heads.box_predictor.update(input_shape=ShapeSpec(channels=256), cls_agnostic_bbox_reg=True)
heads.mask_head.update(
    input_shape=ShapeSpec(channels=64, height=14, width=14),
    num_classes=1,  # all classes share one mask
    conv_dims=[64] * 3,
    conv_norm="GN",
)
del rpn, heads  # every name of a config would become a part of this LazyConfig

dataloader.train.update(total_batch_size=8, num_workers=0)
dataloader.test.num_workers = 0
optimizer.lr = 0.05
train.update(device="cpu", seed=1)
train.checkpointer.period = 100000  # one checkpoint at the end
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1, end_value=0),
    warmup_length=20 / 250,
    warmup_factor=0.1,
)
