# Outside the comparison of the 3x rows: the weights are of the whole backbone, SE included.
from ..common.mask_rcnn_fpn_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=101, variant="se", stem="rs")
train.init_checkpoint = "timm://resnetrs101.tf_in1k"
train.output_dir = "output/mask_rcnn_se_R_101_FPN_3x_timm"
