from ..common.mask_rcnn_fpn_shapes_cpu import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations.augmentations[0].update(
    short_edge_length=(160,), max_size=160
)
dataloader.test.mapper.augmentations.augmentations[0].update(short_edge_length=160, max_size=160)
lr_multiplier.warmup_length = 20 / 450
train.update(max_iter=450, output_dir="output/shapes")
