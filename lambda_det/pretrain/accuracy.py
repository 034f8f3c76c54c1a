"""Loss and accuracy over all processes, and the file ``metrics.json`` of a pretraining."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from lambda_det.io import write_bytes

METRICS_FILE = "metrics.json"


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes in place, and return it."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
    return values


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable, autocast) -> dict[str, float]:
    """Evaluate a classifier on the images of all processes.

    Args:
        model: network that maps images to ``{"linear": logits}``. It is evaluated in evaluation
            mode and then put back into its mode.
        batches: this process's images (N, 3, S, S) and classes (N,). The processes' images must be
            disjoint.
        autocast: function that returns the context manager for the forward pass.

    Returns:
        ``loss`` (mean cross entropy), ``top1`` and ``top5`` (accuracy in percent).
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    for images, targets in batches:
        with autocast():
            logits = model(images)["linear"]
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
    loss, top1, top5, count = sum_over_processes(sums).tolist()
    return {"loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}


class MetricsFile:
    """The file ``metrics.json``: one JSON object per line, for each log period and evaluation.

    Args:
        folder: OUTPUT_DIR of the run.
        iteration: number of finished iterations. Lines of later iterations, which an interrupted
            run wrote after its last checkpoint, are removed, because they will be written again.
    """

    def __init__(self, folder: str, iteration: int) -> None:
        self._path = os.path.join(folder, METRICS_FILE)
        kept = []
        if iteration and os.path.exists(self._path):
            with open(self._path, encoding="utf-8") as file:
                kept = [line for line in file if _iteration(line) <= iteration]
        write_bytes("".join(kept).encode(), self._path)

    def append(self, values: Mapping[str, float]) -> None:
        """Append a line. ``values`` must contain the key ``iteration``."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except ValueError:  # a crash cut the line off
        return float("inf")
