"""Training of a backbone and FPN to classify objects whose true boxes are given.

In this task only features are learned. A detector that also has to find the objects stays at chance
for hundreds of iterations if their kind is shown elsewhere in the image. With the true boxes, a few
hundred iterations show whether a backbone can learn the kinds. The weights can initialise the
backbone and the FPN of a detector::

    python -m studies.evidence.true_boxes --config-file CONFIG --output WEIGHTS [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from torch import Tensor, nn
from torchvision.ops import roi_align

from lambda_det.configs import load_config
from lambda_det.data import build_train_loader, configure_datasets
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import write_atomically
from lambda_det.randomness import seed_everything

logger = logging.getLogger("lambda_det.true_boxes")

ITERATIONS, IMAGES = 200, 16
_LEVEL, _STRIDE = "p2", 4
_POOLED = 7


class TrueBoxes(nn.Module):
    """An FPN, RoIAlign on its finest level with given boxes, and a small classifier.

    Args:
        fpn: maps images (N, 3, H, W) to a dict of levels.
        channels: number of channels of a level.
        classes: number of kinds of objects.
        layer_norm: whether a LayerNorm follows the hidden layer of the classifier. Without it, and
            with 8 images in a batch, all hidden units died in some runs, whatever their features.
    """

    def __init__(
        self, fpn: nn.Module, channels: int, classes: int, *, layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.fpn = fpn
        self.head = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.GroupNorm(32, 64), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * _POOLED**2, 128),
            nn.LayerNorm(128) if layer_norm else nn.Identity(), nn.ReLU(), nn.Linear(128, classes),
        )  # fmt: skip

    def forward(self, images: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Classify the boxes.

        Args:
            images: (N, 3, H, W), normalised.
            boxes: for each image (n, 4), x0, y0, x1, y1 in pixels.

        Returns:
            Logits (boxes of all images, classes).
        """
        features = self.fpn(images)[_LEVEL]
        return self.head(roi_align(features, list(boxes), _POOLED, 1 / _STRIDE, 2, True))


@dataclass
class Curve:
    """Loss and share of correct kinds of each iteration of a training, and its CPU seconds."""

    loss: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    cpu_s: float = 0.0


def normalised(images: np.ndarray, cfg: CfgNode) -> Tensor:
    """Convert BGR (N, H, W, 3) uint8 to the (N, 3, H, W) float input of a detector's backbone."""
    if cfg.INPUT.FORMAT == "RGB":
        images = images[..., ::-1]
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return (pixels.float() - mean) / std


Batch = tuple[Tensor, Sequence[Tensor], Tensor]
"""Images (N, 3, H, W), the boxes (n, 4) of each image, and the kinds (M,) of all boxes."""


def train(
    net: TrueBoxes, batches: Iterable[Batch], cfg: CfgNode, iterations: int, *, every: int = 50
) -> Curve:
    """Train by SGD with the rate, warm-up, decay and precision that ``cfg.SOLVER`` describes.

    Parameters that do not require a gradient are not changed.

    Args:
        net: the network, which is trained in place.
        batches: at least ``iterations`` batches.
        cfg: the config whose SOLVER is read; ``iterations`` replaces its MAX_ITER.
        iterations: number of iterations.
        every: number of iterations between two lines of the log.

    Raises:
        InputError: the loss is not finite.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = iterations
    solver = cfg.SOLVER
    optimizer = torch.optim.SGD(
        [parameter for parameter in net.parameters() if parameter.requires_grad],
        lr=solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY,
    )  # fmt: skip
    scheduler = build_lr_scheduler(cfg, optimizer)
    curve, start = Curve(), time.process_time()
    net.train()
    for iteration, (images, boxes, kinds) in zip(range(1, iterations + 1), batches, strict=False):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=solver.AMP.ENABLED):
            logits = net(images, boxes).float()
        loss = nn.functional.cross_entropy(logits, kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        curve.loss.append(loss.item())
        curve.right.append((logits.argmax(1) == kinds).double().mean().item())
        if not torch.isfinite(loss):
            raise InputError(
                f"SOLVER.BASE_LR {solver.BASE_LR}: the loss of iteration {iteration} is not finite"
            )
        if iteration % every == 0:
            logger.info(
                "iteration %d of %d: loss %.3f, correct kinds %.1f %%", iteration, iterations,
                sum(curve.loss[-every:]) / every, 100 * sum(curve.right[-every:]) / every,
            )  # fmt: skip
    curve.cpu_s = time.process_time() - start
    return curve


def pretrain(
    cfg: CfgNode, iterations: int = ITERATIONS, images: int = IMAGES, *, layer_norm: bool = False
) -> dict[str, Tensor]:
    """Train the backbone and FPN of a detector on the true boxes of its training set.

    Args:
        cfg: config of the detector, with its number of classes. Its SEED and its SOLVER, except
            MAX_ITER and IMS_PER_BATCH, are used.
        iterations: number of iterations.
        images: number of images in an iteration.
        layer_norm: see :class:`TrueBoxes`.

    Returns:
        The weights under the detector's names (``backbone.…``).

    Raises:
        InputError: a number is below 1, the FPN has no level p2, or the loss is not finite.
    """
    for option, number in (("--iterations", iterations), ("--images", images)):
        if number < 1:
            raise InputError(f"{option} {number}: at least 1 is needed")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = images
    seed_everything(cfg.SEED)
    model = build_model(cfg)
    levels = model.backbone.output_shape()
    if _LEVEL not in levels:
        raise InputError(f"true boxes: a backbone with the FPN level {_LEVEL} is needed")
    net = TrueBoxes(
        model.backbone, levels[_LEVEL].channels, cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        layer_norm=layer_norm,
    )  # fmt: skip
    net.to(model.device)
    loader = build_train_loader(cfg, seed=cfg.SEED)

    def batches() -> Iterable[Batch]:
        for items in loader:
            objects = [item["instances"].to(model.device) for item in items]
            kinds = torch.cat([each.gt_classes for each in objects])
            yield (
                model.preprocess_image(items).tensor,
                [each.gt_boxes.tensor for each in objects],
                kinds,
            )

    train(net, batches(), cfg, iterations)
    return {f"backbone.{name}": tensor for name, tensor in model.backbone.state_dict().items()}


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--config-file", required=True, metavar="YAML", help="config of the detector"
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="weights file to write, for MODEL.WEIGHTS"
    )
    parser.add_argument("--iterations", type=int, default=ITERATIONS, metavar="N")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="in a batch")
    parser.add_argument(
        "--layer-norm", action="store_true", help="have a LayerNorm in the classifier"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("lambda_det").setLevel(logging.INFO)
    cfg = load_config(args.config_file, args.opts)
    configure_datasets(cfg)
    with writing(args.output):
        os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
    weights = pretrain(cfg, args.iterations, args.images, layer_norm=args.layer_norm)
    write_atomically(
        args.output,
        lambda file: torch.save({"model": weights}, file),
        subject=f"--output {args.output}",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
