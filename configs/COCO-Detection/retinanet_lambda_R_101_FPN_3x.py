# RetinaNet on the 3x schedule: boxes only, half the learning rate.
from ..common.models.retinanet_fpn import model
from ..common.schedule_3x import _backbone, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up.update(_backbone)
dataloader.train.mapper.use_instance_mask = False
dataloader.test.mapper.use_instance_mask = False
dataloader.evaluator.tasks = ("bbox",)
optimizer.lr = 0.01
train.init_checkpoint = "torchvision://resnet101"
train.output_dir = "output/retinanet_lambda_R_101_FPN_3x"
