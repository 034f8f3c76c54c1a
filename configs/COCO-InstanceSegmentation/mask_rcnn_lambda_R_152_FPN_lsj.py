from ..common.mask_rcnn_fpn_lsj import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=152, variant="lambda")
train.output_dir = "output/mask_rcnn_lambda_R_152_FPN_lsj"
