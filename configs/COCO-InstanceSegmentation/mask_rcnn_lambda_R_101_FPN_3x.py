# Mask R-CNN on the 3x schedule: _base/mask_rcnn_fpn_3x.yaml.
from ..common.models.mask_rcnn_fpn import model
from ..common.schedule_3x import _backbone, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up.update(_backbone)
train.init_checkpoint = "torchvision://resnet101"
train.output_dir = "output/mask_rcnn_lambda_R_101_FPN_3x"
