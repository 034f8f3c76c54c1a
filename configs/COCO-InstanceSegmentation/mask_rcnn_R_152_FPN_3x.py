from ..common.mask_rcnn_fpn_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=152, variant="resnet")
train.init_checkpoint = "torchvision://resnet152"
train.output_dir = "output/mask_rcnn_R_152_FPN_3x"
