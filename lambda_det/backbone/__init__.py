"""The LambdaResNet family on detectron2's ResNet and FPN."""

from lambda_det.backbone.build import (
    build_classifier,
    build_lambda_resnet_backbone,
    build_lambda_resnet_fpn_backbone,
    build_retinanet_lambda_resnet_fpn_backbone,
)
from lambda_det.backbone.lambda_resnet import LambdaResNet, build_lambda_resnet

__all__ = [
    "LambdaResNet",
    "build_classifier",
    "build_lambda_resnet",
    "build_lambda_resnet_backbone",
    "build_lambda_resnet_fpn_backbone",
    "build_retinanet_lambda_resnet_fpn_backbone",
]
