"""The layers of LAYER.KIND as wholes, beside the 3x3 convolution: what the benchmark measures with
``--rivals``, and its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import partial

import psutil
import torch
from tabulate import tabulate

from lambda_det.analysis.flops import count_flops, total_flops
from lambda_det.analysis.memory import activation_bytes
from lambda_det.layers.attention import KINDS
from lambda_det.records import provenance
from studies.benchmarks.layer_forms import (
    SCOPE,
    Candidate,
    Module,
    Shape,
    module_candidates,
    yardsticks,
)
from studies.benchmarks.layer_report import by_shape, title

_PEAK = 4
"""A training step may take this many times the memory that it keeps for the backward pass: copies
of the largest tensor, and gradients."""


def rival_candidates(
    shape: Shape, device: str, dtype: torch.dtype, seed: int
) -> Iterator[Candidate]:
    """Yield a layer of every kind for a shape, each with the defaults of its paper, local attention
    also with the scope of the lambda layer, and the operators that they replace.

    Their facts are ``parameters``, ``gmac`` (of the whole batch) and, if a layer would need more
    memory than there is, a ``note``.
    """
    modules = [*yardsticks(shape.channels), *_layers(shape.channels)]
    for candidate in module_candidates(modules, shape, device, dtype, seed):
        yield _with_facts(candidate, shape)


def _layers(channels: int) -> Iterator[Module]:
    for name, kind in KINDS.items():
        yield name, "layer", partial(kind, channels)
        if name == "local_attention":
            yield f"{name}, {SCOPE}×{SCOPE}", "layer", partial(kind, channels, scope=SCOPE)


def _with_facts(candidate: Candidate, shape: Shape) -> Candidate:
    module = deepcopy(candidate.function).to("meta")
    x = torch.zeros(shape.batch, shape.channels, shape.height, shape.width, device="meta")
    x = x.to(candidate.inputs[0].dtype)
    candidate.facts = {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "gmac": round(total_flops(count_flops(module.eval(), x)) / 1e9, 3),
    }
    kept = activation_bytes(module.train(), x.requires_grad_()).total()
    if _PEAK * kept > (free := _free_bytes(candidate.inputs[0].device)):
        candidate.facts["note"] = (
            f"does not fit: keeps {kept / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        )
    return candidate


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available  # with what caches of files would give back


def rival_layers_table(record: Mapping) -> str:
    """Format the record in Markdown, with a table for each shape."""
    headers = ["layer", "parameters", "GMAC", "kept MiB", "forward ms", "train ms", "(min to max)"]
    parts = [
        f"**{title(shape[0])}**\n\n" + tabulate(map(_cells, shape), headers, tablefmt="pipe")
        for shape in by_shape(record["rows"])
    ]
    return "\n\n".join([*parts, provenance(record)])


def _cells(row: Mapping) -> list[str]:
    counted = [row["form"], f"{row['parameters']:,}", f"{row['gmac']:.2f}"]
    if "note" in row:
        return [*counted, row["note"]]
    return [
        *counted,
        f"{row['saved_mib']:.1f}",
        f"{row['forward_ms']:.1f}",
        f"{row['train_ms']:.1f}",
        f"{row['train_min_ms']:.1f} to {row['train_max_ms']:.1f}",
    ]
