from ..common.mask_rcnn_fpn_cpu import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations.augmentations[0].update(
    short_edge_length=(128,), max_size=128
)
dataloader.test.mapper.augmentations.augmentations[0].update(short_edge_length=128, max_size=128)
train.max_iter = 250
train.output_dir = "output/shapes"
