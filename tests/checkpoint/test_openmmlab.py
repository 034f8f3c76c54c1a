"""The style and the images of mmdet's networks are those of the config in the file, or unknown."""

from __future__ import annotations

import pytest
import torch

from lambda_det.checkpoint.image_format import IMAGENET, MSRA, ImageFormat
from lambda_det.checkpoint.translation import translate

BACKBONE = {
    f"backbone.layer{stage}.0.conv{i}.weight": torch.ones(1) for stage in (1, 4) for i in (1, 3)
}
HEADS = {"neck.lateral_convs.0.conv.weight": torch.ones(1), "bbox_head.fc.weight": torch.ones(1)}
CAFFE = """
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=50, norm_eval=True, style='caffe'),
    roi_head=dict(bbox_coder=dict(target_means=[0.0, 0.0], target_stds=[0.1, 0.1])))
img_norm_cfg = dict(
    mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
train_pipeline = [dict(type='Normalize', mean=[103.530, 116.280,
    123.675], std=[1.0, 1.0, 1.0], to_rgb=False)]
"""
PYTORCH = """
model = dict(
    data_preprocessor=dict(
        bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375,], type='D'),
    backbone=dict(style='pytorch', init_cfg=dict(type='Normal', std=0.01)))
"""
OTHER = """
backbone = dict(style='caffe')
norm = dict(mean=[102.9801, 115.9465, 122.7717], std=[1, 1, 1], to_rgb=False)
"""
HALF = ImageFormat("BGR", (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
CAFFE_STYLE, PYTORCH_STYLE = {"stride_in_1x1": True}, {"stride_in_1x1": False}


@pytest.mark.parametrize(
    ("text", "images", "hidden"),
    [
        (CAFFE, MSRA, CAFFE_STYLE),
        (PYTORCH, IMAGENET, PYTORCH_STYLE),
        (OTHER, HALF, CAFFE_STYLE),
        (PYTORCH.replace("style='pytorch', ", ""), IMAGENET, PYTORCH_STYLE),  # its default
        (CAFFE + PYTORCH, None, {}),  # a teacher and a student
        (CAFFE.replace("123.675", "x"), None, CAFFE_STYLE),
        ("backbone=dict(style='other')", None, {}),
        ("x" * 2**21 + CAFFE, None, {}),
    ],
)
@pytest.mark.parametrize("name", ["config", "cfg"])
def test_the_config_tells(name: str, text: str, images: ImageFormat | None, hidden: dict) -> None:
    found = translate("w.pth", {"meta": {name: text, "epoch": 12}, "state_dict": BACKBONE | HEADS})
    assert (found.images, found.not_in_shapes()) == (images, hidden)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": BACKBONE | HEADS},
        {"state_dict": {f"module.{name}": t for name, t in (BACKBONE | HEADS).items()}},
        {"state_dict": BACKBONE, "meta": {"mmdet_version": "2.28.0"}},
        {"state_dict": BACKBONE, "message_hub": {}},
        {"state_dict": BACKBONE, "meta": {"cfg": {"model": 1}, "mmengine_version": "0.10.0"}},
    ],
)
def test_without_a_config_nothing_is_claimed(content: dict) -> None:
    found = translate("w.pth", content)
    assert found.images is None and not found.not_in_shapes()


@pytest.mark.parametrize("meta", [{}, {"meta": "words"}, {"meta": {"epoch": 1}}])
def test_other_files_are_torchvisions(meta: dict) -> None:
    found = translate("w.pth", {"state_dict": BACKBONE | {"fc.weight": torch.ones(1)}} | meta)
    assert found.images == IMAGENET and found.not_in_shapes() == PYTORCH_STYLE
