from ..common.mask_rcnn_fpn_shapes_cpu import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations.augmentations[0].update(
    short_edge_length=(128,), max_size=128
)
dataloader.test.mapper.augmentations.augmentations[0].update(short_edge_length=128, max_size=128)
lr_multiplier.warmup_length = 20 / 500
train.update(max_iter=500, output_dir="output/shapes")
