"""Exports the network of a config to a file, runs the file and compares it with the network."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from lambda_det.backbone import LambdaResNet, build_detector
from lambda_det.checkpoint import load_weights
from lambda_det.errors import InputError
from lambda_det.export import formats
from lambda_det.export.checking import Difference, largest_difference
from lambda_det.export.forms import (
    BackboneForm,
    check_detector,
    detect,
    detector_form,
)
from lambda_det.io import write_atomically

MULTIPLE = 32
"""Height and width of an exported network's input are multiples of this many pixels: an FPN accepts
no other sizes, and detectron2 pads to them."""

TOLERANCE = 1e-4
"""Largest difference that is accepted, see :class:`~lambda_det.export.checking.Difference`."""


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        differences: one for each comparison.
        written: whether the file was written, that is, whether no difference was too large.
        threshold_lowered: whether the first half of ``differences`` was measured with
            SCORE_THRESH_TEST 0, because the detector found nothing with the configured threshold.
    """

    differences: list[Difference]
    written: bool
    threshold_lowered: bool = False

    @property
    def largest(self) -> float:
        """The largest of all differences."""
        return max(difference.largest for difference in self.differences)


def export_config(
    cfg: CfgNode,
    output: str,
    *,
    format: str,
    what: str = "backbone",
    size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
) -> Export:
    """Export the network of ``cfg`` and compare the file with the network.

    The weights are those of ``MODEL.WEIGHTS``, or random if that is empty. Network and file are run
    at ``size`` and at a second size. The file is written to ``output`` only if no number differs by
    more than ``tolerance``.

    Args:
        cfg: config of a detector.
        output: path of the file.
        format: one of :data:`lambda_det.export.formats.FORMATS`.
        what: ``"backbone"`` (with its FPN; its input is (1, C, H, W), normalised and padded as the
            meta-architecture does it) or ``"detector"`` (its input is one image (3, H, W) with
            values from 0 to 255).
        size: (H, W) in pixels, multiples of 32, at least 64; None = INPUT.MIN_SIZE_TEST, rounded up
            to a multiple of 32, for both.
        tolerance: largest difference that is accepted, see
            :class:`~lambda_det.export.checking.Difference`.

    Returns:
        What was compared, and whether the file was written.

    Raises:
        InputError: an argument has a wrong value, the weights cannot be read, or the format cannot
            hold the model.
    """
    formats.need(format)
    folder = os.path.dirname(output) or "."
    if os.path.isdir(output) or not os.path.isdir(folder):
        wrong = "is a folder" if os.path.isdir(output) else f"there is no folder {folder}"
        raise InputError(f"--output {output}: {wrong}, expected the name of a file")
    model = _build(cfg)
    bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
    largest = bottom_up.max_size if isinstance(bottom_up, LambdaResNet) else None
    sizes = _two_sizes(cfg, size, largest)
    inputs = [_image(cfg, *sides, what=what, device=model.device) for sides in sizes]
    # The larger one, because torch.export makes an axis of size 1, in a feature map, a constant.
    example = max(inputs, key=Tensor.numel)
    if what == "backbone":
        network = model.backbone
        made = partial(BackboneForm, model.backbone)
    else:
        check_detector(model)
        network = partial(detect, model)
        made = partial(detector_form, model, example)

    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "model" + formats.SUFFIXES[format])

        def compared() -> list[Difference]:
            with formats.naming(format, what):
                form = made()
            formats.write(
                form, example, path, format=format, what=what, multiple=MULTIPLE, largest=largest
            )
            return largest_difference(network, formats.read(path, format, form.names), inputs)

        differences = []
        nothing = what == "detector" and not any(len(network(x)["scores"]) for x in inputs)
        if nothing:  # then the comparison needs detections: compare also with threshold 0
            with _score_threshold(model, 0.0):
                differences += compared()
        differences += compared()
        within = max(d.largest for d in differences) <= tolerance
        result = Export(differences, within, threshold_lowered=nothing)
        if result.written:
            with open(path, "rb") as file:
                copy = partial(shutil.copyfileobj, file)
                write_atomically(output, copy, subject=f"{output}:")
    return result


@contextlib.contextmanager
def _score_threshold(model: nn.Module, threshold: float) -> Iterator[None]:
    """A context in which the heads of ``model`` use another MODEL.ROI_HEADS.SCORE_THRESH_TEST."""
    heads = [module for module in model.modules() if hasattr(module, "test_score_thresh")]
    before = [head.test_score_thresh for head in heads]
    for head in heads:
        head.test_score_thresh = threshold
    try:
        yield
    finally:
        for head, value in zip(heads, before, strict=True):
            head.test_score_thresh = value


def _build(cfg: CfgNode) -> nn.Module:
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    model = build_detector(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, complete=True, cfg=cfg)
    return model.requires_grad_(False)


def _two_sizes(
    cfg: CfgNode, size: tuple[int, int] | None, largest: tuple[int, int] | None
) -> list[tuple[int, int]]:
    """The size to compare at, and a second one.

    The second is larger, or smaller if a global scope covers at most ``largest``.
    """
    side = -(-cfg.INPUT.MIN_SIZE_TEST // MULTIPLE) * MULTIPLE
    height, width = size or (max(side, 2 * MULTIPLE),) * 2
    limit = largest or (1 << 30, 1 << 30)
    if any(side < 2 * MULTIPLE or side % MULTIPLE for side in (height, width)):
        raise InputError(f"--size {height} {width}: expected two multiples of 32, at least 64")
    if height > limit[0] or width > limit[1]:
        raise InputError(
            f"--size {height} {width}: MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE={list(limit)} is smaller"
        )
    other = []
    for side, most in zip((height, width), limit, strict=True):
        step = MULTIPLE * (1 + len(other))  # H and W change by different amounts
        smaller = max(2 * MULTIPLE, side - step)
        other.append(side + step if side + step <= most else smaller)
    if tuple(other) == (height, width):
        raise InputError(
            f"MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE={list(limit)}: too small for a second size"
        )
    return [(height, width), tuple(other)]


def _image(cfg: CfgNode, height: int, width: int, *, what: str, device: torch.device) -> Tensor:
    """A random input that is the same in every run: a backbone's (1, C, H, W) or an image."""
    channels = len(cfg.MODEL.PIXEL_MEAN)
    generator = torch.Generator().manual_seed(height * 10_000 + width)
    if what == "backbone":
        return torch.randn(1, channels, height, width, generator=generator).to(device)
    coarse = torch.rand(1, channels, height // 16, width // 16, generator=generator)
    return (255 * nn.functional.interpolate(coarse, (height, width), mode="bilinear"))[0].to(device)
