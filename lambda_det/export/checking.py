"""Compares the outputs of an exported file with those of the network that it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lambda_det.errors import InputError

Function = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Difference:
    """The result of comparing both on one input.

    Attributes:
        height, width: size of the input in pixels.
        shapes: name of each output of the network -> its shape.
        largest: the largest difference over all numbers of all outputs, absolute for numbers up to
            1 and relative for larger ones; infinite if names or shapes differ.
    """

    height: int
    width: int
    shapes: dict[str, tuple[int, ...]]
    largest: float


def largest_difference(
    network: Function, exported: Function, inputs: Iterable[Tensor]
) -> list[Difference]:
    """Run both functions on every input and compare their outputs by name.

    A number that is NaN on one side only counts as infinitely different. Each detection is compared
    with the nearest one of the same class, because nearly equal scores can change the order of the
    detections.

    Args:
        network: the original network, as a function from an input to named outputs.
        exported: the exported file, as such a function.
        inputs: tensors (..., H, W).

    Returns:
        One :class:`Difference` for each input.

    Raises:
        InputError: the exported file cannot be run on an input.
    """
    differences = []
    for x in inputs:
        with torch.no_grad():
            wanted = _on_cpu(network(x))
            try:
                found = _on_cpu(exported(x))
            except Exception as error:  # PyTorch and onnxruntime raise many types
                reason = str(error).strip().splitlines()[-1][:300]
                raise InputError(
                    f"the exported file cannot be run at {x.shape[-2]} x {x.shape[-1]}: {reason}"
                ) from error
        if "pred_boxes" in wanted:
            found = _in_order_of(wanted, found)
        largest = max(
            (_difference(found.get(name), tensor) for name, tensor in wanted.items()), default=0.0
        )
        if set(wanted) != set(found):
            largest = math.inf
        shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
        differences.append(Difference(x.shape[-2], x.shape[-1], shapes, largest))
    return differences


def _on_cpu(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in outputs.items()}


def _difference(found: Tensor | None, wanted: Tensor) -> float:
    if found is None or found.shape != wanted.shape:
        return math.inf
    if not wanted.numel():
        return 0.0
    found, wanted = found.double(), wanted.double()
    share = ((found - wanted) / wanted.abs().clamp_min(1)).abs().nan_to_num(math.inf, math.inf)
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    return share.masked_fill(same, 0).max().item()


def _in_order_of(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Reorder the detections ``found`` so that each matches the nearest detection of ``wanted``.

    Distances are those of boxes and scores; detections of different classes never match.
    """
    number = len(wanted["scores"])
    if len(found["scores"]) != number or not number:
        return found
    distances = torch.cdist(wanted["pred_boxes"].double(), found["pred_boxes"].double())
    distances += (wanted["scores"][:, None] - found["scores"]).abs()
    distances[wanted["pred_classes"][:, None] != found["pred_classes"]] = math.inf
    order = []
    for row in distances:
        order.append(int(row.argmin()))
        distances[:, order[-1]] = math.inf  # each detection is matched once
    return {name: tensor[order] for name, tensor in found.items()}
