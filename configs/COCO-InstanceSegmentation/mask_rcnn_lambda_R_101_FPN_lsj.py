# From scratch with large-scale jitter, 100 epochs: _base/mask_rcnn_fpn_lsj.yaml, which says why.
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from lambda_det.data.augmentations import large_scale_jitter

from ..common.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.train import optimizer, train

model.backbone.bottom_up.norm = model.backbone.norm = "SyncBN"
model.proposal_generator.head.conv_dims = [-1, -1]
model.roi_heads.box_head.update(conv_dims=[256] * 4, fc_dims=[1024], conv_norm="naiveSyncBN_N")
model.roi_heads.mask_head.conv_norm = "naiveSyncBN_N"

dataloader.train.mapper.augmentations = L(large_scale_jitter)(
    scale=(0.1, 2.0), size=(1024, 1024), flip="horizontal"
)
dataloader.train.mapper.recompute_boxes = True
dataloader.train.total_batch_size = 64

optimizer.lr = 0.1
optimizer.weight_decay = 4e-5
train.update(max_iter=184375, eval_period=20000, max_skipped_steps=10)
train.output_dir = "output/mask_rcnn_lambda_R_101_FPN_lsj"
train.amp.update(enabled=True, precision="bfloat16")
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163889, 177546], num_updates=184375
    ),
    warmup_length=500 / 184375,
    warmup_factor=0.067,
)
