"""Loading of the networks and of the image for :mod:`studies.views.lambda_figures`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from lambda_det.backbone import LambdaResNet
from lambda_det.checkpoint.loading import find_backbone
from lambda_det.data.images.image_files import read_image
from lambda_det.data.registering.config_datasets import configure_heads
from lambda_det.engine.checks import check_device
from lambda_det.engine.values import check_values
from lambda_det.errors import InputError
from lambda_det.predict.predictor import Predictor


@dataclass(frozen=True)
class Networks:
    """Backbones by label, and the predictor of the first one's detector."""

    backbones: dict[str, nn.Module]
    predictor: Predictor


def load_networks(cfg: CfgNode, beside: Sequence[tuple[str, str]] = ()) -> Networks:
    """Load the backbone of a config with MODEL.WEIGHTS, and other variants to compare it with.

    Args:
        cfg: an unfrozen config.
        beside: the others, as pairs of ``MODEL.LAMBDA_RESNET.VARIANT`` and a weights file.

    Raises:
        InputError: a value is not valid, weights cannot be used, or the backbone is not a ResNet.
    """
    check_values(cfg)
    check_device(cfg.MODEL.DEVICE)
    first, backbones = None, {}
    for variant, weights in [(None, cfg.MODEL.WEIGHTS), *beside]:
        one = cfg.clone()
        one.MODEL.WEIGHTS = weights
        if variant is not None:
            one.MODEL.LAMBDA_RESNET.VARIANT = variant
        configure_heads(one)
        predictor = Predictor(one)
        _, backbone = find_backbone(predictor.model)
        if backbone is None:
            raise InputError(
                f"MODEL.BACKBONE.NAME={cfg.MODEL.BACKBONE.NAME!r}: is not a ResNet and has no "
                "lambda layers"
            )
        label = one.MODEL.BACKBONE.NAME
        if isinstance(backbone, LambdaResNet):
            label = f"{one.MODEL.LAMBDA_RESNET.VARIANT}-{one.MODEL.LAMBDA_RESNET.DEPTH}"
        while label in backbones:  # one variant with two files of weights
            label += "'"
        backbones[label] = backbone
        first = first or predictor
    return Networks(backbones, first)


def read_for(
    networks: Networks, path: str, query: Sequence[float] | None
) -> tuple[Tensor, np.ndarray, tuple[float, float] | None]:
    """Read an image file for the backbones; it is resized as for a prediction.

    Args:
        networks: networks from :func:`load_networks`.
        path: path of the image file.
        query: (row, column) in pixels of the file's image, or None.

    Returns:
        The normalised image (1, C, H, W), the same image as (H, W, 3) RGB uint8 for plots, and the
        query in pixels of the resized image.

    Raises:
        InputError: the file cannot be read, or the query is outside of the image.
    """
    predictor = networks.predictor
    original = read_image(path, predictor.cfg.INPUT.FORMAT, called="--image")
    image = predictor.prepare(original)["image"]
    if query is not None:
        height, width = original.shape[:2]
        if not (0 <= query[0] < height and 0 <= query[1] < width):
            raise InputError(
                f"--query {query[0]:g} {query[1]:g}: the image has {height} x {width} pixels"
            )
        query = tuple(
            min((pixel + 0.5) * new / old - 0.5, new - 1) if new != old else pixel
            for pixel, new, old in zip(query, image.shape[1:], (height, width), strict=True)
        )
        query = tuple(max(0.0, pixel) for pixel in query)
    background = predictor.to_bgr(image.permute(1, 2, 0).numpy())[:, :, ::-1]
    model = predictor.cfg.MODEL
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (model.PIXEL_MEAN, model.PIXEL_STD)
    )
    return ((image - mean) / std)[None].to(model.DEVICE), background, query
