from ..common.mask_rcnn_fpn_lsj_paper import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=101, variant="lambda")
train.output_dir = "output/mask_rcnn_lambda_R_101_FPN_lsj_paper"
