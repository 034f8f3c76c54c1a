"""Top-1 and top-5 over all processes, and the file of a run's numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

METRICS_FILE = "metrics.json"


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of every process's ``values``."""
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(values)
    return values


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable, autocast) -> dict[str, float]:
    """Loss (cross entropy), top-1 and top-5 in percent over the images of all processes.

    Args:
        model: images -> ``{"linear": logits}``; its training mode is left as it was.
        batches: this process's share, (N, 3, S, S) and classes (N,); every image in one share.
        autocast: context manager factory around the network.
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
    """JSON lines, one per log period and per evaluation; every line once, also after a resume.

    Args:
        folder: of the run.
        iteration: finished iterations; lines of later ones, from before a crash, are removed.
    """

    def __init__(self, folder: str, iteration: int) -> None:
        self._path = os.path.join(folder, METRICS_FILE)
        kept = []
        if iteration and os.path.exists(self._path):
            with open(self._path, encoding="utf-8") as file:
                kept = [line for line in file if _iteration(line) <= iteration]
        with open(f"{self._path}.tmp", "w", encoding="utf-8") as file:
            file.writelines(kept)
        os.replace(f"{self._path}.tmp", self._path)

    def append(self, values: Mapping[str, float]) -> None:
        """Add a line; ``values`` has a key ``iteration``."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except ValueError:  # the line that a crash cut off
        return float("inf")
