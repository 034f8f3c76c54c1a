"""A classifier as the engine trains it, and its evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from lambda_det.layers.precision import autocast_to
from lambda_det.pretrain.timm_parts import Mixing


class Classifier(nn.Module):
    """A network whose training forward returns its loss.

    In training mode it maps a batch, images (N, 3, S, S) and classes (N,), to ``{"loss": …}``; in
    evaluation mode it maps images to logits (N, classes). The names in its state dict are those of
    the network, so that MODEL.WEIGHTS of a detector accepts a checkpoint.

    Args:
        network: maps images to ``{"linear": logits}``.
        mixing: augmentation of a batch, and the loss.
    """

    def __init__(self, network: nn.Module, mixing: Mixing) -> None:
        super().__init__()
        self.network = network
        self._mixing = (mixing,)  # in a tuple, because a module in it has no part in the state

    def forward(self, batch: Tensor | tuple[Tensor, Tensor]) -> Tensor | dict[str, Tensor]:
        if not self.training:
            return self.network(batch)["linear"]
        (mixing,) = self._mixing
        images, targets = mixing(*batch)
        logits = self.network(images)["linear"]
        return {"loss": mixing.loss(logits.float(), targets)}

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping, *args, **kwargs):
        return self.network.load_state_dict(state_dict, *args, **kwargs)


@torch.no_grad()
def evaluate(
    batches: Iterable, model: nn.Module, *, precision: torch.dtype | None = None
) -> dict[str, float]:
    """Evaluate a classifier on the images of all processes.

    Args:
        batches: this process's images (N, 3, S, S) and classes (N,). The processes' images must be
            disjoint.
        model: maps images to logits in evaluation mode. It is put back into its mode.
        precision: type of the autocast; None = no autocast.

    Returns:
        ``val_loss`` (mean cross entropy), ``val_top1`` and ``val_top5`` (accuracy in percent).
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for images, targets in batches:
        with autocast_to(precision, device.type):
            logits = model(images)
        logits = logits.float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        sums += torch.stack(
            [
                F.cross_entropy(logits, targets, reduction="sum").double(),
                best[:, 0].sum().double(),
                best.sum().double(),
                torch.tensor(float(len(targets)), dtype=torch.float64, device=device),
            ]
        )
    model.train(training)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(sums)
    loss, top1, top5, count = sums.tolist()
    return {
        "val_loss": loss / count,
        "val_top1": 100 * top1 / count,
        "val_top5": 100 * top5 / count,
    }
