"""Builders of timm's optimiser, schedule, batch augmentation and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn

from lambda_det.errors import InputError


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build timm's optimiser PRETRAIN.OPTIMIZER with the rate LR_PER_256 * BATCH_SIZE / 256.

    Raises:
        InputError: timm has no optimiser of that name.
    """
    node = cfg.PRETRAIN
    if node.OPTIMIZER not in list_optimizers():
        raise InputError(
            f"PRETRAIN.OPTIMIZER={node.OPTIMIZER!r}: timm has no such optimiser; expected for "
            "example 'momentum', 'sgd' (with Nesterov momentum), 'adamw' or 'lamb'"
        )
    return create_optimizer_v2(
        model,
        opt=node.OPTIMIZER,
        lr=node.LR_PER_256 * node.BATCH_SIZE / 256,
        weight_decay=node.WEIGHT_DECAY,
        momentum=node.MOMENTUM,
    )


class TimmSchedule(torch.optim.lr_scheduler.LRScheduler):
    """A schedule of timm as one of PyTorch.

    Args:
        optimizer: the optimiser of the schedule.
        schedule: sets the rates by ``step_update(iteration)``.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Scheduler) -> None:
        self._schedule = schedule
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self._schedule.step_update(self.last_epoch)
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self._schedule.step_update(self.last_epoch)


def build_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer, iterations_per_epoch: int
) -> TimmSchedule:
    """Build timm's schedule PRETRAIN.SCHEDULER, to be stepped after every iteration."""
    node = cfg.PRETRAIN
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=node.SCHEDULER,
        num_epochs=node.EPOCHS,
        warmup_epochs=node.WARMUP_EPOCHS,
        warmup_lr=node.WARMUP_LR,
        min_lr=node.MIN_LR,
        step_on_epochs=False,
        updates_per_epoch=iterations_per_epoch,
    )
    return TimmSchedule(optimizer, scheduler)


@dataclass
class Mixing:
    """Augmentation of a batch on its device, and the loss for its targets.

    Attributes:
        erase: timm's random erasing; None = none.
        mix: timm's mixup and CutMix; None = none.
        loss: function of the logits (N, classes) and the targets that returns a scalar.
    """

    erase: RandomErasing | None
    mix: Mixup | None
    loss: nn.Module

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: (N, 3, S, S).
            targets: classes (N,).

        Returns:
            The images (N, 3, S, S), and the targets: classes (N,), or with ``mix`` the share of
            each class (N, classes).
        """
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        if self.erase is not None:
            images = self.erase(images)
        return images, targets


def build_mixing(cfg: CfgNode, num_classes: int, device: torch.device) -> Mixing:
    """Build random erasing, mixup and CutMix, and the loss with label smoothing."""
    node = cfg.PRETRAIN
    erase = None
    if node.RANDOM_ERASING:
        erase = RandomErasing(node.RANDOM_ERASING, mode="pixel", device=device)
    if node.MIXUP or node.CUTMIX:
        mix = Mixup(
            mixup_alpha=node.MIXUP,
            cutmix_alpha=node.CUTMIX,
            label_smoothing=node.LABEL_SMOOTHING,
            num_classes=num_classes,
        )
        return Mixing(erase, mix, SoftTargetCrossEntropy())
    # With a smoothing of 0 this is the ordinary cross entropy.
    return Mixing(erase, None, LabelSmoothingCrossEntropy(node.LABEL_SMOOTHING))
