# The detector of the quickstart, whose RPN and heads read only res4 and res5; the YAML file of the
# same name says why.
from detectron2.layers import ShapeSpec

from ..common.mask_rcnn_fpn_cpu import dataloader, lr_multiplier, model, optimizer, train

model.backbone.update(in_features=["res4", "res5"], out_channels=128)
rpn, heads = model.proposal_generator, model.roi_heads
rpn.in_features = ["p4", "p5", "p6"]
rpn.head.update(in_channels=128, num_anchors=6)
rpn.anchor_generator.update(sizes=[[20, 36], [60, 90], [128, 176]], strides=[16, 32, 64])
heads.update(box_in_features=["p4"], mask_in_features=["p4"])
heads.box_pooler.scales = heads.mask_pooler.scales = (1 / 16,)
heads.box_head.input_shape = ShapeSpec(channels=128, height=7, width=7)
heads.mask_head.update(input_shape=ShapeSpec(channels=128, height=14, width=14), conv_dims=[96] * 4)
del rpn, heads  # every name of a config would become a part of this LazyConfig

dataloader.train.mapper.augmentations.augmentations[0].update(
    short_edge_length=(160,), max_size=160
)
dataloader.test.mapper.augmentations.augmentations[0].update(short_edge_length=160, max_size=160)
lr_multiplier.warmup_length = 20 / 450
train.update(max_iter=450, output_dir="output/shapes")
