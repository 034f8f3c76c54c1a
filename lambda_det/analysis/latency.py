"""Latency of a model's forward pass."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn


def measure_latency(
    model: nn.Module, *inputs: torch.Tensor, min_runs: int = 5, seconds: float = 2.0
) -> dict[str, float]:
    """Measure the time of a forward pass in evaluation mode, after one that is not timed.

    Args:
        model: any network, on the device of the inputs.
        inputs: the model's inputs.
        min_runs: smallest number of forward passes to time.
        seconds: total time after which no further forward pass is started.

    Returns:
        ``median``, ``min`` and ``max`` in milliseconds, and ``runs``, the number of forward passes.
    """
    on_gpu = any(tensor.is_cuda for tensor in inputs)
    times: list[float] = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(*inputs)
        while len(times) < min_runs or sum(times) < seconds:
            if on_gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            model(*inputs)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    model.train(was_training)
    return {
        "median": round(1000 * statistics.median(times), 2),
        "min": round(1000 * min(times), 2),
        "max": round(1000 * max(times), 2),
        "runs": len(times),
    }
