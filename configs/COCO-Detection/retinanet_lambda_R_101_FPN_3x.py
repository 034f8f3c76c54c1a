from ..common.retinanet_fpn_3x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=101, variant="lambda")
train.init_checkpoint = "torchvision://resnet101"
train.output_dir = "output/retinanet_lambda_R_101_FPN_3x"
