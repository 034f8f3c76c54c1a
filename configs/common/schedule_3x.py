# detectron2's 3x schedule from torchvision's ImageNet ResNets: _base/mask_rcnn_fpn_3x.yaml, which
# says why the new parts start as they do.
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from .coco import dataloader
from .train import optimizer, train

# The leaves pass this to model.backbone.bottom_up. The underscore keeps it out of the config.
_backbone = dict(stem="v1", norm="SyncBN", freeze_at=1)

train.update(max_iter=270000, eval_period=30000, max_skipped_steps=10)
train.amp.update(enabled=True, precision="bfloat16")
train.partial_init.update(enabled=True, as_identity=True)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[210000, 250000], num_updates=270000
    ),
    warmup_length=1000 / 270000,
    warmup_factor=0.001,
)
