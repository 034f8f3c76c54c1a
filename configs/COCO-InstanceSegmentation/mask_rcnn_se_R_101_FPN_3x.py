from ..common.mask_rcnn_fpn_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=101, variant="se")
train.init_checkpoint = "torchvision://resnet101"
train.output_dir = "output/mask_rcnn_se_R_101_FPN_3x"
