# RetinaNet on the 3x schedule: boxes only, half the learning rate.
from .models.retinanet_fpn import model
from .schedule_3x import backbone, dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up.update(backbone)
dataloader.train.mapper.use_instance_mask = False
dataloader.test.mapper.use_instance_mask = False
dataloader.evaluator.tasks = ("bbox",)
optimizer.lr = 0.01
