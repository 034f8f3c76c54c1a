"""Influence of the other images of a batch (the neighbours) on an image's features and detections.

In evaluation the neighbours influence an image only by the size to which the batch is padded. So
the module runs an image alone, and again in a batch with a larger image, and compares both.
"""

from __future__ import annotations

import contextlib
import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from detectron2.structures import Instances, pairwise_iou
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lambda_det.backbone import LambdaResNet
from lambda_det.checkpoint import load_weights
from lambda_det.data.reading.layouts import find_layout
from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer
from lambda_det.layers.squeeze_excitation import SqueezeExcitation


def measure_batch_mates(
    cfg: CfgNode, images: Sequence[Tensor], canvas: tuple[int, int], *, seed: int = 0
) -> list[dict]:
    """Measure the differences between an image alone and the same image beside a larger one.

    Args:
        cfg: config of a detector with a backbone of this project. Without MODEL.WEIGHTS, the
            weights and the norms are random, and detections are not compared.
        images: (3, H, W) in the channel order of INPUT.FORMAT, values from 0 to 255.
        canvas: (H, W) of the larger image in pixels.
        seed: seed of random weights.

    Returns:
        A row without and one with MODEL.LAMBDA_RESNET.MASK_PADDING. For every feature it has the
        mean absolute difference divided by the mean magnitude, in the image's upper left quarter
        (``res4_inner``) and in the whole image (``res4``), as the mean over the images.
        ``se_gate`` is the largest difference of an SE gate (a gate is between 0 and 1), and
        ``content`` that of a content lambda applied to its queries, divided by the largest
        magnitude; None if the network has no such layer. ``found`` counts the detections of both
        runs. For these the row has the percentage without a partner of the same class and an IoU
        above 0.5, the mean shift of a box's sides in pixels and the mean difference of scores.

    Raises:
        InputError: the backbone is not one of this project, an image is larger than ``canvas``, or
            the weights do not fit.
    """
    for image in images:
        if any(side > largest for side, largest in zip(image.shape[-2:], canvas, strict=True)):
            raise InputError(
                f"--canvas {canvas[0]} {canvas[1]}: smaller than an image of {image.shape[-2]} x "
                f"{image.shape[-1]} pixels"
            )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.LAMBDA_RESNET.MASK_PADDING = True  # so that the backbone gets the sizes; set below
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    backbone = getattr(model.backbone, "bottom_up", model.backbone)
    if not isinstance(backbone, LambdaResNet):
        raise InputError(f"MODEL.BACKBONE.NAME={cfg.MODEL.BACKBONE.NAME!r}: is not a LambdaResNet")
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, complete=True, cfg=cfg)
    else:
        _randomise_norms(backbone, seed)
    rows = []
    for mask in (False, True):
        backbone.mask_padding = mask
        row = {
            "variant": cfg.MODEL.LAMBDA_RESNET.VARIANT,
            "depth": cfg.MODEL.LAMBDA_RESNET.DEPTH,
            "weights": os.path.basename(cfg.MODEL.WEIGHTS) or "random",
            "images": len(images),
            "canvas": f"{canvas[0]} x {canvas[1]}",
            "mask_padding": mask,
        }
        pairs = [_compare(model, backbone, image, canvas) for image in images]
        rows.append(row | _summary(pairs, detections=bool(cfg.MODEL.WEIGHTS)))
    return rows


def read_images(
    folder: str, split: str, number: int, longest_side: int, image_format: str
) -> list[Tensor]:
    """Read and resize the first JPEG images, by name, of a split of a COCO folder.

    Args:
        folder: folder in COCO layout.
        split: name of the split.
        number: number of images.
        longest_side: length in pixels that the longer side is resized to.
        image_format: order of the channels, ``"BGR"`` or ``"RGB"``.

    Returns:
        Images (3, H, W) uint8.

    Raises:
        InputError: the folder or the split does not exist, or it has fewer images.
    """
    image_root = find_layout(folder).split(split).images
    paths = sorted(glob.glob(os.path.join(glob.escape(image_root), "*.jpg")))[:number]
    if number < 1 or len(paths) < number:
        raise InputError(f"--images {number}: {image_root} has {len(paths)} files *.jpg")
    images = []
    for path in paths:
        pixels = read_image(path, image_format)
        scale = longest_side / max(pixels.shape[:2])
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        images.append(
            torch.as_tensor(np.asarray(Image.fromarray(pixels).resize((width, height)))).permute(
                2, 0, 1
            )
        )
    return images


def _compare(
    model: nn.Module, backbone: LambdaResNet, image: Tensor, canvas: tuple[int, int]
) -> dict:
    with _recorded(backbone) as alone, torch.no_grad():
        found = model([_input(image)])[0]["instances"]
    with _recorded(backbone) as together, torch.no_grad():
        others = model([_input(image), _input(_resized(image, canvas))])[0]["instances"]
    differences = {}
    for name, shape in backbone.output_shape().items():
        sides = [math.ceil(side / shape.stride) for side in image.shape[-2:]]
        for suffix, part in (("_inner", 2), ("", 1)):
            height, width = (max(1, side // part) for side in sides)
            first, second = (
                run["features"][name][0, :, :height, :width] for run in (alone, together)
            )
            difference = (first - second).abs().mean() / first.abs().mean()
            differences[name + suffix] = difference.item()
    gates = [
        (first[0] - second[0]).abs().max().item()
        for first, second in zip(alone["gates"], together["gates"], strict=True)
    ]
    contents = []
    for (first, stride), (second, _) in zip(alone["contents"], together["contents"], strict=True):
        height, width = (math.ceil(side / stride) for side in image.shape[-2:])
        first, second = (tensor[0, :, :height, :width] for tensor in (first, second))
        contents.append(((first - second).abs().max() / first.abs().max()).item())
    differences["se_gate"] = max(gates, default=None)
    differences["content"] = max(contents, default=None)
    return {"differences": differences, "detections": _matched(found, others)}


def _input(image: Tensor) -> dict:
    return {"image": image, "height": image.shape[-2], "width": image.shape[-1]}


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(image[None].float(), size=tuple(size), mode="bilinear")[0]


@contextlib.contextmanager
def _recorded(backbone: LambdaResNet) -> Iterator[dict]:
    """Record tensors of the next forward of a backbone.

    Yields:
        A dict that the forward fills: ``features``, ``gates`` (of the SE modules) and ``contents``
        (of each lambda layer the content lambda times queries, and its stride).
    """
    record = {"features": {}, "gates": [], "contents": [], "height": 0}

    def note_height(_backbone: nn.Module, inputs: tuple) -> None:
        record["height"] = inputs[0].shape[-2]

    def note_content(layer: LambdaLayer, inputs: tuple, _output: Tensor) -> None:
        position, layer.position = layer.position, False
        try:
            content = layer.forward(*inputs)
        finally:
            layer.position = position
        # A feature map's height is rounded up; strides are powers of two.
        stride = 2 ** math.ceil(math.log2(record["height"] / inputs[0].shape[-2]))
        record["contents"].append((content, stride))

    handles = [
        backbone.register_forward_pre_hook(note_height),
        backbone.register_forward_hook(lambda _m, _i, output: record["features"].update(output)),
    ]
    for module in backbone.modules():
        if isinstance(module, SqueezeExcitation):
            hook = module.scale_activation.register_forward_hook
            handles.append(hook(lambda _m, _i, output: record["gates"].append(output)))
        elif isinstance(module, LambdaLayer) and module.content:
            handles.append(module.register_forward_hook(note_content))
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _matched(first: Instances, second: Instances) -> dict:
    """Match the detections of two runs; count those without a partner, and compare partners."""
    iou = pairwise_iou(first.pred_boxes, second.pred_boxes)
    iou = iou * (first.pred_classes[:, None] == second.pred_classes[None])
    shifts, scores, used = [], [], set()
    for i in first.scores.argsort(descending=True).tolist():
        candidates = [j for j in range(len(second)) if j not in used and iou[i, j] > 0.5]
        if candidates:
            j = max(candidates, key=lambda j: iou[i, j].item())
            used.add(j)
            boxes = first.pred_boxes.tensor[i], second.pred_boxes.tensor[j]
            shifts.append((boxes[0] - boxes[1]).abs().mean().item())
            scores.append((first.scores[i] - second.scores[j]).abs().item())
    found = len(first) + len(second)
    return {"found": found, "alone": found - 2 * len(used), "shifts": shifts, "scores": scores}


def _summary(pairs: Sequence[Mapping], *, detections: bool) -> dict:
    summary = {}
    for name in pairs[0]["differences"]:
        values = [pair["differences"][name] for pair in pairs]
        if name not in ("se_gate", "content"):
            summary[name] = float(f"{sum(values) / len(values):.2e}")
        else:
            summary[name] = None if values[0] is None else float(f"{max(values):.2e}")
    if detections:
        joined = {
            name: sum((pair["detections"][name] for pair in pairs), type(first)())
            for name, first in pairs[0]["detections"].items()
        }
        summary["found"] = joined["found"]
        summary["without_partner_percent"] = _mean(100 * joined["alone"], joined["found"])
        summary["box_shift_px"] = _mean(sum(joined["shifts"]), len(joined["shifts"]))
        summary["score_difference"] = _mean(sum(joined["scores"]), len(joined["scores"]))
    return summary


def _mean(total: float, number: int) -> float | None:
    return float(f"{total / number:.2e}") if number else None


def _randomise_norms(backbone: nn.Module, seed: int) -> None:
    """Give norms random weights as after a training; new blocks end in a norm of weight zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if not hasattr(module, "running_var"):
            continue
        with torch.no_grad():
            for name in ("weight", "running_var"):
                tensor = getattr(module, name)
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
            for name in ("bias", "running_mean"):
                tensor = getattr(module, name)
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
