"""Settings that train without an error and end in an AP of 0, told before the first iteration.

What cannot be meant is an InputError, what is likely a mistake one warning that says what to do.
The checks of the objects themselves are in :mod:`lambda_det.data.training_set_checks`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from lambda_det.checkpoint.image_format import IMAGENET, ImageFormat
from lambda_det.configs import Layer
from lambda_det.engine.parts import RunOptions
from lambda_det.errors import InputError, first_line_of, key

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """A learning rate and the images per iteration that it was chosen for."""

    base_lr: float
    images_per_batch: int

    def rate_for(self, images_per_batch: int) -> float:
        """The rate for another batch by the linear scaling rule."""
        return self.base_lr * images_per_batch / self.images_per_batch

    @classmethod
    def of(cls, layers: Sequence[Layer], overrides: Sequence[str] = ()) -> Recipe | None:
        """The last of the files and the overrides that sets ``SOLVER.BASE_LR``, with the
        ``SOLVER.IMS_PER_BATCH`` that holds there.

        Args:
            layers: of :func:`~lambda_det.configs.read_config`; the values were merged, so that
                those of files have the right types.
            overrides: keys and values by turns.

        Returns:
            None where none of them sets both, or where one cannot be read.
        """
        pairs = dict(zip(overrides[::2], overrides[1::2], strict=True))
        prefix = "SOLVER."
        given = {key.removeprefix(prefix): v for key, v in pairs.items() if key.startswith(prefix)}
        batch = recipe = None
        for solver in (*(content.get("SOLVER", {}) for _, content in layers), given):
            try:
                batch = int(solver.get("IMS_PER_BATCH", batch or 0)) or None
                base_lr = float(solver["BASE_LR"]) if "BASE_LR" in solver else None
            except ValueError:  # such as "0x10", which yacs reads and int() does not
                return None
            if base_lr is not None:
                recipe = cls(base_lr, batch) if batch and base_lr > 0 else None
        return recipe


DETECTRON2 = Recipe(base_lr=0.02, images_per_batch=16)
"""Of detectron2's COCO baselines, with SGD of momentum 0.9."""

_RESCALED = 4.0  # the batch of a recipe was changed by so much and its rate was not
_FAR = 8.0  # times detectron2's rate for that batch; short schedules use up to 6
_MEAN_TOLERANCE = 2.0  # grey levels; the channels' means are 7 and more apart


def check_solver(
    base_lr: float,
    images_per_batch: int,
    *,
    max_iter: int,
    warmup_iters: int,
    recipe: Recipe | None = None,
) -> None:
    """Compare the learning rate of SGD with the batch, and the warm-up with the schedule.

    A rate belongs to a batch: for k times the images it is k times as high (the linear scaling
    rule, arXiv 1706.02677).

    Args:
        base_lr: ``SOLVER.BASE_LR``.
        images_per_batch: ``SOLVER.IMS_PER_BATCH``.
        max_iter: length of the training in iterations.
        warmup_iters: length of the warm-up.
        recipe: the batch that the rate was chosen for; None = not known.
    """
    rate, batch, warm_up = map(
        key, ("SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "SOLVER.WARMUP_ITERS")
    )
    if base_lr == 0:
        logger.warning("%s is 0: nothing will be learned", rate)
    if max_iter > 0 and warmup_iters >= max_iter:
        logger.warning(
            "%s %d is no shorter than %s %d: the learning rate stays below %s all the time; lower "
            "%s",
            warm_up, warmup_iters, key("SOLVER.MAX_ITER"), max_iter, rate, warm_up,
        )  # fmt: skip
    if base_lr == 0 or images_per_batch < 1:
        return
    if recipe is not None:
        suggested = recipe.rate_for(images_per_batch)
        if not 1 / _RESCALED < base_lr / suggested < _RESCALED:
            logger.warning(
                "%s %g was chosen for %s %d, which is now %d; for that the linear scaling rule "
                "gives %s %.3g",
                rate, base_lr, batch, recipe.images_per_batch, images_per_batch, rate, suggested,
            )  # fmt: skip
            return
    usual = DETECTRON2.rate_for(images_per_batch)
    if base_lr / usual >= _FAR:
        logger.warning(
            "%s %g is high for %s %d: %.3g times detectron2's %g for %d images; if the loss grows "
            "or becomes NaN, set %s %.3g",
            rate, base_lr, batch, images_per_batch, base_lr / usual, DETECTRON2.base_lr,
            DETECTRON2.images_per_batch, rate, usual,
        )  # fmt: skip


def check_pixels(images: ImageFormat) -> None:
    """Are ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD`` those of images of 0 to 255 in ``INPUT.FORMAT``?

    The order of the channels is only judged where mean or deviation are ImageNet's.
    """
    mean, std = images.pixel_mean, images.pixel_std
    if max(std) < 1 and max(mean) <= 1:
        logger.warning(
            "%s %s and %s %s are for pixels of 0 to 1, and images here are 0 to 255: multiply both "
            "by 255",
            key("MODEL.PIXEL_MEAN"), list(mean), key("MODEL.PIXEL_STD"), list(std),
        )  # fmt: skip
        return
    if images.channel_order not in ("RGB", "BGR"):
        return
    for name, values, known in (
        ("MODEL.PIXEL_MEAN", mean, IMAGENET.in_order(images.channel_order).pixel_mean),
        ("MODEL.PIXEL_STD", std, IMAGENET.in_order(images.channel_order).pixel_std),
    ):
        tolerance = _MEAN_TOLERANCE if values is mean else 0.3  # deviations are 0.25 apart
        if not _close(values, known, tolerance) and _close(values, known[::-1], tolerance):
            logger.warning(
                "%s %s has its channels in the other order than %s %r: set it to %s",
                key(name), list(values), key("INPUT.FORMAT"), images.channel_order, list(known),
            )  # fmt: skip


def check_norms(model: nn.Module, images_per_process: int | None, num_processes: int) -> None:
    """Do the model's norms normalise? To be called when its weights are there.

    Args:
        model: any network.
        images_per_process: of one forward pass; None = not known.
        num_processes: that train together.

    Raises:
        InputError: all FrozenBatchNorm layers are as they were made: they change nothing.
    """
    frozen, idle, single = 0, [], []
    norm = key("MODEL.LAMBDA_RESNET.NORM")
    for name, module in model.named_modules():
        if isinstance(module, (FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d)):
            frozen += 1
            if _changes_nothing(module):
                idle.append(name)
        elif (
            images_per_process is not None
            and isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
        ):
            together = isinstance(module, (nn.SyncBatchNorm, NaiveSyncBatchNorm))
            if images_per_process * (num_processes if together else 1) < 2:
                single.append(name)
    if frozen and len(idle) == frozen:
        raise InputError(
            f"all {frozen} FrozenBN layers of the model (first: {idle[0]}) were never loaded: they "
            f"normalise nothing, and the network does not learn; give {key('MODEL.WEIGHTS')} that "
            f"hold their statistics, or another norm ({norm} 'BN', 'SyncBN' or 'GN')"
        )
    if idle:
        logger.warning(
            "%d of %d FrozenBN layers were never loaded and normalise nothing (first: %s): set %s "
            "'BN', 'SyncBN' or 'GN'",
            len(idle), frozen, idle[0], norm,
        )  # fmt: skip
    if single:
        logger.warning(
            "%d BatchNorm layers (first: %s) have the statistics of a single image (%d per "
            "process, %d processes): raise %s to 2 per process, or take 'GN', or 'SyncBN' with "
            "several GPUs ('naiveSyncBN' with several processes of a CPU)",
            len(single), single[0], images_per_process, num_processes, key("SOLVER.IMS_PER_BATCH"),
        )  # fmt: skip


def check_device(device: str) -> None:
    """Try a device.

    Raises:
        InputError: PyTorch cannot use it.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if device.startswith("cuda") and not torch.cuda.is_available():
            reason = f"PyTorch sees no GPU here; add {key('MODEL.DEVICE')} cpu"
        else:
            reason = f"PyTorch cannot use it ({first_line_of(error)}); expected cpu or cuda"
        raise InputError(f"{key('MODEL.DEVICE')}={device!r}: {reason}") from error


def on_device(device: str, options: RunOptions) -> RunOptions:
    """Return the options with a precision that the device has; a change is a warning."""
    if device != "cpu" or options.precision != "float16":
        return options
    logger.warning(
        "%s with %s float16 needs a GPU: training in float32 on the CPU instead (bfloat16 works "
        "there)",
        key("SOLVER.AMP.ENABLED"), key("SOLVER.AMP.PRECISION"),
    )  # fmt: skip
    return replace(options, precision="float32")


def _close(values: Sequence[float], others: Sequence[float], tolerance: float) -> bool:
    return len(values) == len(others) and all(
        abs(a - b) <= tolerance for a, b in zip(values, others, strict=True)
    )


def _changes_nothing(norm: nn.Module) -> bool:
    """Are its statistics and its affine map still those that it was made with?"""
    made = ((norm.weight, 1.0), (norm.bias, 0.0), (norm.running_mean, 0.0), (norm.running_var, 1.0))
    return all(bool(torch.all((tensor - value).abs() <= 2e-5)) for tensor, value in made)
