"""Analysis of the detector of a config: parameters, multiply-adds, memory and latency."""

from __future__ import annotations

import math
from collections import Counter

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    build_backbone,
)
from detectron2.modeling.proposal_generator.build import PROPOSAL_GENERATOR_REGISTRY as _PROPOSALS
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads
from tabulate import tabulate
from torch import Tensor, nn

from lambda_det.analysis.flops import count_flops, total_flops
from lambda_det.analysis.latency import measure_latency
from lambda_det.analysis.memory import activation_bytes
from lambda_det.analysis.parameters import PARTS, classifier_form_parameters, count_parameters
from lambda_det.backbone import LambdaResNet, build_detector
from lambda_det.backbone.architectures import BOTTOM_UP_PARTS
from lambda_det.errors import InputError
from lambda_det.records import hardware

MIB = 2**20


def analyze_config(
    cfg: CfgNode, size: tuple[int, int] | None = None, *, latency: bool = True
) -> dict:
    """Count the parameters, multiply-adds and activation memory, and measure the latency.

    The counts are those of one image. They are made on PyTorch's meta device, which needs neither
    memory nor weights. The latency is that of the backbone with its neck in float32 with random
    weights, on ``cfg.MODEL.DEVICE``, or on the CPU if PyTorch has no GPU.

    Args:
        cfg: config of a detector.
        size: (height, width) of the image in pixels; None = (INPUT.MIN_SIZE_TEST,
            INPUT.MAX_SIZE_TEST). It is rounded up to a multiple of the backbone's
            ``size_divisibility``, to which detectron2 pads its batches.
        latency: whether to measure the latency, which takes seconds and memory.

    Returns:
        A row for a record with these keys: ``height``, ``width`` (pixels); ``parameters`` (total,
        backbone, neck, heads, classifier_form); ``parameters_by_part``; ``multiply_adds_by_part``;
        ``activation_mib_by_part`` (what autograd keeps in training in float32);
        ``activation_checkpointing`` (its stages); ``heads_not_counted`` (modules that are not
        included in the multiply-adds); and, if measured, ``latency_ms`` and ``latency_device``.
        See docs/speed.md, "Counting".

    Raises:
        InputError: the size is not positive, or a key of the config has a wrong value.
    """
    height, width = size or (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    if height < 1 or width < 1:
        raise InputError(f"--size {height} {width}: expected two positive integers, H and W")
    _check_names(cfg)
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda") and not torch.cuda.is_available():
        device = "cpu"
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.DATASETS.COCO_FOLDER = ""  # no data are read, so the warning of an unread folder misleads
    try:
        with torch.device("meta"):
            model = build_detector(cfg)
    except KeyError as error:  # detectron2's heads raise it for a feature that does not exist
        raise InputError(
            f"IN_FEATURES of the config: {error} is not among the features of the backbone"
        ) from error
    backbone = model.backbone
    multiple = max(1, backbone.size_divisibility)
    height, width = (math.ceil(side / multiple) * multiple for side in (height, width))
    image = torch.empty(1, len(cfg.MODEL.PIXEL_MEAN), height, width, device="meta")

    parameters = count_parameters(model)
    of_heads, not_counted = _multiply_adds_of_heads(model, image, cfg)
    own = isinstance(getattr(backbone, "bottom_up", backbone), LambdaResNet)
    try:
        kept = activation_bytes(backbone.train(), image, prefix="backbone")
    except ValueError as error:  # BatchNorm needs more than one position of res5 in training
        raise InputError(f"--size {height} {width}: too small for training: {error}") from error
    measured = {}
    if latency:
        milliseconds, latency_device = _latency(cfg, image.shape, device)
        measured = {"latency_ms": milliseconds, "latency_device": latency_device}
    return {
        "height": height,
        "width": width,
        "parameters": {
            "total": parameters.total(),
            "backbone": sum(parameters[part] for part in BOTTOM_UP_PARTS),
            "neck": parameters["neck"],
            "heads": parameters["heads"],
            "classifier_form": classifier_form_parameters(cfg) if own else None,
        },
        "parameters_by_part": _in_order(parameters),
        "multiply_adds_by_part": _in_order(_multiply_adds(backbone, image)) | of_heads,
        "heads_not_counted": not_counted,
        "activation_checkpointing": list(cfg.MODEL.LAMBDA_RESNET.ACTIVATION_CHECKPOINTING)
        if own
        else [],
        "activation_mib_by_part": {
            part: round(count / MIB, 2) for part, count in _in_order(kept).items()
        },
        **measured,
    }


def analysis_report(row: dict) -> str:
    """Return the result of :func:`analyze_config` (with latency) as text for a terminal."""
    macs, memory = row["multiply_adds_by_part"], row["activation_mib_by_part"]
    parts = dict.fromkeys([*row["parameters_by_part"], *macs])
    lines = [
        [
            part,
            _scaled(row["parameters_by_part"].get(part), 1e6),
            _scaled(macs.get(part), 1e9),
            memory.get(part),
        ]
        for part in parts
    ]
    table = tabulate(
        lines,
        headers=["part", "parameters M", "GMAC", "activations MiB"],
        tablefmt="rounded_outline",
        floatfmt=("", ".3f", ".2f", ".1f"),
        missingval="-",
    )
    counts = row["parameters"]
    form = counts["classifier_form"]
    latency, missing = row["latency_ms"], row["heads_not_counted"]
    recomputed = row["activation_checkpointing"]
    return "\n".join(
        [
            f"one image of {row['height']} x {row['width']}",
            table,
            f"parameters: {counts['total'] / 1e6:.3f} M = backbone {counts['backbone'] / 1e6:.3f}"
            f" + neck {counts['neck'] / 1e6:.3f} + heads {counts['heads'] / 1e6:.3f}"
            + (f"; backbone as a 1000-way classifier: {form / 1e6:.3f} M" if form else ""),
            "GMAC: 10^9 multiply-adds (fvcore calls them FLOPs); activations: what autograd keeps "
            "in training in float32",
            *(
                [
                    f"activation checkpointing of {', '.join(recomputed)}: only the inputs of the "
                    "blocks are kept; the activations of one block at a time are added while the "
                    "backward pass computes it again"
                ]
                if recomputed
                else []
            ),
            *([f"multiply-adds not counted: {', '.join(missing)}"] if missing else []),
            f"latency of backbone and neck: {latency['median']:.1f} ms (median of "
            f"{latency['runs']}, {latency['min']:.1f} to {latency['max']:.1f}), "
            f"{row['latency_device']}",
        ]
    )


def _check_names(cfg: CfgNode) -> None:
    for key, name, registry in (
        ("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("MODEL.PROPOSAL_GENERATOR.NAME", cfg.MODEL.PROPOSAL_GENERATOR.NAME, _PROPOSALS),
        ("MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
    ):
        if name not in registry:
            names = ", ".join(known for known, _ in registry)
            raise InputError(f"{key}={name!r}: expected one of {names}")
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(
            f"MODEL.DEVICE={cfg.MODEL.DEVICE!r}: expected cpu, cuda or another PyTorch device"
        ) from error


def _multiply_adds(backbone: nn.Module, image: Tensor) -> Counter[str]:
    """Count the multiply-adds of each part of the bare backbone and of the neck."""
    counts = count_flops(backbone.eval(), image)
    prefix = "bottom_up." if hasattr(backbone, "bottom_up") else ""
    parts = Counter({part: total_flops(counts, prefix + part) for part in BOTTOM_UP_PARTS})
    parts["neck"] = total_flops(counts) - parts.total()
    return parts


def _multiply_adds_of_heads(
    model: nn.Module, image: Tensor, cfg: CfgNode
) -> tuple[dict[str, int], list[str]]:
    """Count the multiply-adds of the RPN, of RetinaNet's head and of the standard RoI heads.

    The RoI heads are counted for the largest number of regions that the config allows, because the
    number in an image is not known before.

    Returns:
        The counts by label, and the names of modules with parameters that are not counted.
    """
    with torch.no_grad():
        features = model.backbone.eval()(image)
    counts, counted = {}, []

    def count(label: str, heads: list[nn.Module], layers: nn.Module, inputs: object) -> None:
        counts[label] = total_flops(count_flops(layers, inputs))
        counted.extend(heads)

    rpn = getattr(getattr(model, "proposal_generator", None), "rpn_head", None)
    if rpn is not None:
        levels = [features[name] for name in cfg.MODEL.RPN.IN_FEATURES]
        count("heads: rpn", [rpn], rpn, levels)
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        levels = [features[name] for name in cfg.MODEL.RETINANET.IN_FEATURES]
        count("heads: dense", [model.head], model.head, levels)
    roi = getattr(model, "roi_heads", None)
    if isinstance(roi, StandardROIHeads) and not isinstance(roi, CascadeROIHeads):
        channels = features[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].shape[1]
        regions = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        boxes = torch.empty(regions, channels, side, side, device="meta")
        heads = [roi.box_head, roi.box_predictor]
        count(f"heads: box, {regions} regions", heads, nn.Sequential(*heads), boxes)
        if cfg.MODEL.MASK_ON and hasattr(roi.mask_head, "layers"):
            regions = cfg.TEST.DETECTIONS_PER_IMAGE
            side = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
            boxes = torch.empty(regions, channels, side, side, device="meta")
            layers = _MaskLayers(roi.mask_head)
            count(f"heads: mask, {regions} regions", [roi.mask_head], layers, boxes)
    known = {id(p) for module in (model.backbone, *counted) for p in module.parameters()}
    rest = [name for name, p in model.named_parameters() if id(p) not in known]
    return counts, list(dict.fromkeys(".".join(name.split(".")[:2]) for name in rest))


class _MaskLayers(nn.Module):
    """The layers of detectron2's mask head, whose ``forward`` also needs predicted boxes."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head.layers(x)


def _latency(cfg: CfgNode, shape: torch.Size, device: str) -> tuple[dict[str, float], str]:
    backbone = build_backbone(cfg).to(device)
    latency = measure_latency(backbone, torch.rand(shape, device=device))
    machine = hardware()
    threads = f"{machine['cpu']}, {torch.get_num_threads()} threads"
    return latency, machine["gpu"] if device.startswith("cuda") else threads


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {part: counts[part] for part in PARTS if counts[part]}


def _scaled(number: int | None, unit: float) -> float | None:
    return None if number is None else number / unit
