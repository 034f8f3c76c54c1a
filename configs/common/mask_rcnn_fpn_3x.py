# Mask R-CNN on the 3x schedule.
from .models.mask_rcnn_fpn import model
from .schedule_3x import backbone, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up.update(backbone)
