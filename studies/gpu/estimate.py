"""Estimates how long the ``"triton"`` back end takes on GPUs that are not there.

    python -m studies.gpu.estimate [--record]

The model is coarse: each launch takes as long as the slowest of three, its products at the peak of
the tensor cores, its loads from the second-level cache, and its tensors, each once, from or to the
memory. Nothing overlaps, nothing waits, and a launch itself costs nothing. The roofline beside it
is the same for the sums as they are written: only the products that count, and only the inputs and
outputs of the pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import write_json
from lambda_det.records import make_record, record_path, results_folder
from studies.gpu.ahead_of_time import SHAPES, Shape
from studies.gpu.counts import Counts, count_passes
from studies.gpu.estimate_table import text_table

RECORD = "gpu_estimates"
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU, per second: those of its data sheet, and of the cache an assumption.

    Attributes:
        architecture: compute capability, times ten.
        flops: of dense products of bfloat16 with sums in float32.
        memory_bytes, cache_bytes: of the memory and of the second-level cache.
    """

    name: str
    architecture: int
    flops: float
    memory_bytes: float
    cache_bytes: float = 5e12


GPUS = (
    Gpu("H200", 90, 989e12, 4.8e12),
    Gpu("A100 80 GB", 80, 312e12, 2.04e12),
    Gpu("RTX 4090", 89, 165e12, 1.01e12),
)


def estimated_s(works: Sequence[Counts], gpu: Gpu) -> float:
    """Seconds of a pass by the model."""
    return sum(
        max(
            work.flops / gpu.flops,
            work.loaded_bytes / gpu.cache_bytes,
            work.memory_bytes / gpu.memory_bytes,
        )
        for work in works
    )


def roofline_s(shape: Shape, direction: str, gpu: Gpu) -> float:
    """Seconds below which no order of the sums with q·E first can come."""
    queries = shape.images * shape.height * shape.width * shape.heads
    pairs = _pairs(shape.height, shape.scope) * _pairs(shape.width, shape.scope)
    pairs *= shape.images * shape.heads * shape.sets
    query = queries * shape.depth * DTYPE.itemsize
    value = queries // shape.heads * shape.sets * shape.channels * DTYPE.itemsize
    output = queries * shape.channels * torch.float32.itemsize
    table = shape.depth * shape.sets * shape.scope**2 * torch.float32.itemsize
    depth, channels = shape.depth, shape.channels
    if direction == "forward":
        products, moved = depth + channels, query + value + table + output
    else:  # q·E once more and its gradient; those of query, value and embedding
        products, moved = 3 * depth + 2 * channels, 2 * (query + value + table) + output
    return max(2 * pairs * products / gpu.flops, moved / gpu.memory_bytes)


def _pairs(length: int, scope: int) -> int:
    """Pairs of a query and a value of one row (or column) that lie within the scope."""
    return sum(max(0, length - abs(offset)) for offset in range(-(scope // 2), scope // 2 + 1))


def estimate(shape: Shape, gpu: Gpu) -> list[dict]:
    """A row for the forward and one for the backward pass of a shape."""
    return [
        {
            "gpu": gpu.name,
            "stage": shape.stage,
            "images": shape.images,
            "height": shape.height,
            "width": shape.width,
            "channels": shape.channels,
            "dtype": str(DTYPE).removeprefix("torch."),
            "pass": direction,
            "launches": len(works),
            "gflop": round(sum(work.flops for work in works) / 1e9, 3),
            "loaded_mb": round(sum(work.loaded_bytes for work in works) / 1e6, 1),
            "memory_mb": round(sum(work.memory_bytes for work in works) / 1e6, 1),
            "estimated_us": round(1e6 * estimated_s(works, gpu), 2),
            "roofline_us": round(1e6 * roofline_s(shape, direction, gpu), 2),
        }
        for direction, works in count_passes(shape, DTYPE, gpu.architecture).items()
    ]


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help=f"write results/{RECORD}.json")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("triton") is None:
        raise InputError("Triton is not installed; PyTorch's wheels for CUDA bring it")
    rows = [row for shape in SHAPES for gpu in GPUS for row in estimate(shape, gpu)]
    print(text_table(rows))
    if args.record:
        path = record_path(str(results_folder()), RECORD)
        command = "python -m studies.gpu.estimate --record"
        with writing(path):
            write_json(make_record(command, rows, packages=["triton"], with_gpu=False), path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
