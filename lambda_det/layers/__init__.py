"""The lambda layer and its parts, built on PyTorch and torchvision without detectron2."""

from lambda_det.layers.lambda_layer import LambdaLayer
from lambda_det.layers.position_lambda import position_lambda

__all__ = ["LambdaLayer", "position_lambda"]
