"""The LambdaResNet family, built on detectron2's ResNet and FPN."""

from lambda_det.backbone.blocks import LambdaBottleneck
from lambda_det.backbone.build import (
    build_classifier,
    build_detector,
    build_lambda_resnet_backbone,
    build_lambda_resnet_fpn_backbone,
    build_retinanet_lambda_resnet_fpn_backbone,
    lambda_resnet_arguments,
)
from lambda_det.backbone.kinds import LAYER_REGISTRY
from lambda_det.backbone.lambda_resnet import LambdaResNet, build_lambda_resnet
from lambda_det.backbone.padding import attach_image_sizes, share_image_sizes

__all__ = [
    "LAYER_REGISTRY",
    "LambdaBottleneck",
    "LambdaResNet",
    "attach_image_sizes",
    "build_classifier",
    "build_detector",
    "build_lambda_resnet",
    "build_lambda_resnet_backbone",
    "build_lambda_resnet_fpn_backbone",
    "build_retinanet_lambda_resnet_fpn_backbone",
    "lambda_resnet_arguments",
    "share_image_sizes",
]
