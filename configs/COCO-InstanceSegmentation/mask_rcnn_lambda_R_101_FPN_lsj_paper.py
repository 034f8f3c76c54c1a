# The paper's COCO recipe: _base/mask_rcnn_fpn_lsj_paper.yaml, which says how sure each part is.
from .mask_rcnn_lambda_R_101_FPN_lsj import dataloader, lr_multiplier, model, optimizer, train

dataloader.test.mapper.augmentations.augmentations[0].update(short_edge_length=1024, max_size=1024)
optimizer.lr = 0.08
train.update(max_iter=520000, eval_period=50000)
train.output_dir = "output/mask_rcnn_lambda_R_101_FPN_lsj_paper"
lr_multiplier.update(warmup_length=4000 / 520000, warmup_factor=0.001)
lr_multiplier.scheduler.update(
    values=[1.0, 0.1, 0.01, 0.001], milestones=[468000, 494000, 507000], num_updates=520000
)
