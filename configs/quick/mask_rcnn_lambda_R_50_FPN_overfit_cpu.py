from ..common.mask_rcnn_fpn_cpu import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "coco_folder_train2017"
dataloader.test.dataset.names = "coco_folder_train2017"  # the training images, as in the YAML
dataloader.train.mapper.augmentations.augmentations[0].short_edge_length = [256]
dataloader.train.mapper.augmentations.augmentations.pop(1)  # no flips
dataloader.test.mapper.augmentations.augmentations[0].short_edge_length = 256
dataloader.train.total_batch_size = 4
model.proposal_generator.anchor_generator.sizes = [[24], [48], [96], [160], [256]]
optimizer.lr = 0.03
lr_multiplier.warmup_length = 20 / 500
train.update(max_iter=500, output_dir="output/overfit")
