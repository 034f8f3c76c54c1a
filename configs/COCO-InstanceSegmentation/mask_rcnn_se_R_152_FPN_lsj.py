from ..common.mask_rcnn_fpn_lsj import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=152, variant="se")
train.output_dir = "output/mask_rcnn_se_R_152_FPN_lsj"
