"""Measurement of time and memory of lambda layers, and of the alternatives in layer_forms.py."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lambda_det.layers import position_lambda
from studies.benchmarks.layer_forms import (
    HEADS,
    QUERY_DEPTH,
    SCOPE,
    Candidate,
    Shape,
    candidates,
    position_inputs,
)
from studies.benchmarks.peaks import measured_peaks

_SHORTEST_MS = 2.0
"""A form is repeated within one measurement until it takes about this long."""

_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: type of the features. If it is a half type, whole layers run under autocast.
        rounds: number of rounds; the best round counts.
        repetitions: measurements in a round, whose median counts. The forms take turns.
        forms: names of the forms to measure; empty means all.
        errors: whether to compare the position lambdas with float64.
        seed: seed of the inputs and weights.
        make: gives what is measured at a shape; None is
            :func:`~studies.benchmarks.layer_forms.candidates`.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    rounds: int = 3
    repetitions: int = 9
    forms: tuple[str, ...] = ()
    errors: bool = True
    seed: int = 0
    make: Callable[[Shape, str, torch.dtype, int], Iterable[Candidate]] | None = None


def benchmark_layers(
    shapes: Sequence[Shape], protocol: Protocol, progress: Callable[[str], None] = lambda _: None
) -> list[dict]:
    """Measure every form at every shape.

    Args:
        shapes: shapes of the inputs.
        protocol: how to measure.
        progress: called with a line of text before every shape.

    Returns:
        A row for each form and shape, with ``stage, batch, channels, height, width, device, dtype,
        form, kind``; ``forward_ms`` (inference) and ``train_ms`` (forward and backward): the lowest
        median of a round, with ``_min_ms`` and ``_max_ms`` over all measurements; ``saved_mib``:
        what autograd keeps for the backward pass besides parameters, each storage once;
        ``peak_mib``: the most memory that a training step allocates besides inputs and parameters
        (on CUDA; None on a CPU); ``error`` and ``gradient_error``: for position lambdas, the error
        relative to float64 on the first image, and the largest of its three gradients, None if it
        is not finite; ``note``: the reason if it could not be measured.

        Rows of position lambdas also have ``forward_gflops`` and ``backward_gflops``: the useful
        operations (:func:`useful_operations`) by time, where the backward pass takes what the
        training step takes beside the forward. On a CPU in float32 they have the rates of
        :func:`studies.benchmarks.peaks.measured_peaks`, the highest of before and after each shape.
    """
    rows: list[dict] = []
    has_peaks = protocol.device == "cpu" and protocol.dtype == torch.float32
    peaks = measured_peaks() if has_peaks else {}
    for shape in shapes:
        progress(
            f"{shape.stage}: {shape.batch} x {shape.channels} x {shape.height} x {shape.width}"
        )
        rows += _benchmark_shape(shape, protocol)
        gc.collect()
        if protocol.device.startswith("cuda"):
            torch.cuda.empty_cache()
        for name, rate in measured_peaks().items() if has_peaks else ():
            peaks[name] = round(max(rate, peaks[name]), 1)
    for row in rows:
        if "forward_gflops" in row:
            row |= peaks
    return rows


def _benchmark_shape(shape: Shape, protocol: Protocol) -> list[dict]:
    chosen: list[tuple[Candidate, dict]] = []
    rows = []
    make = protocol.make or candidates
    for candidate in make(shape, protocol.device, protocol.dtype, protocol.seed):
        if protocol.forms and candidate.name not in protocol.forms:
            continue
        row: dict = {
            **vars(shape),
            "device": protocol.device,
            "dtype": str(protocol.dtype).removeprefix("torch."),
            "form": candidate.name,
            "kind": candidate.kind,
            **candidate.facts,
        }
        rows.append(row)
        if "note" in row:
            continue
        try:
            row["saved_mib"] = round(saved_bytes(candidate) / 2**20, 3)
            row["peak_mib"] = _peak_mib(candidate)
        except (_OUT_OF_MEMORY, RuntimeError, NotImplementedError) as error:
            row["note"] = str(error).splitlines()[0][:200]
            continue
        chosen.append((candidate, row))
    _time(chosen, protocol)
    _add_rates([row for c, row in chosen if c.kind == "position"], shape)
    if protocol.errors:
        _compare([(c, row) for c, row in chosen if c.kind == "position"], shape, protocol)
    return rows


def useful_operations(shape: Shape) -> tuple[int, int]:
    """Operations (two for a multiply-add) of the position lambda with q·E first, of the forward and
    of the backward pass, without those on values outside the image.

    Forward: q·E and its product with the values. Backward: q·E again, its gradient, and from both
    the gradients of queries, embedding and values.
    """
    reach = SCOPE // 2
    taps = math.prod(
        sum(min(side, i + reach + 1) - max(0, i - reach) for i in range(side))
        for side in (shape.height, shape.width)
    )
    pairs = 2 * shape.batch * HEADS * taps
    channels = shape.channels // HEADS
    return pairs * (QUERY_DEPTH + channels), pairs * (3 * QUERY_DEPTH + 2 * channels)


def _add_rates(rows: list[dict], shape: Shape) -> None:
    forward, backward = useful_operations(shape)
    for row in rows:
        seconds = (row["train_ms"] - row["forward_ms"]) / 1000
        row["forward_gflops"] = round(forward / row["forward_ms"] / 1e6, 1)
        row["backward_gflops"] = round(backward / seconds / 1e9, 1) if seconds > 0 else None


def _time(chosen: list[tuple[Candidate, dict]], protocol: Protocol) -> None:
    """Measure forward and training step of all candidates in turns, and write them to the rows."""
    calls = []
    for candidate, row in chosen:
        for what, call in (("forward", _forward), ("train", _training_step(candidate))):
            once = _milliseconds(candidate, call, 1)
            times = max(1, min(100, math.ceil(_SHORTEST_MS / max(once, 1e-3))))
            calls.append((candidate, row, what, call, times))
    found: dict[int, list[list[float]]] = {index: [] for index in range(len(calls))}
    for _ in range(protocol.rounds):
        for times in found.values():
            times.append([])
        for _ in range(protocol.repetitions):
            for index, (candidate, _, _, call, times) in enumerate(calls):
                found[index][-1].append(_milliseconds(candidate, call, times))
    for index, (_, row, what, _, _) in enumerate(calls):
        everything = [ms for times in found[index] for ms in times]
        row[f"{what}_ms"] = round(min(map(statistics.median, found[index])), 4)
        row[f"{what}_min_ms"] = round(min(everything), 4)
        row[f"{what}_max_ms"] = round(max(everything), 4)


def _milliseconds(candidate: Candidate, call: Callable[[Candidate], object], times: int) -> float:
    synchronize = torch.cuda.synchronize if candidate.inputs[0].is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call(candidate)
    synchronize()
    return 1000 * (time.perf_counter() - start) / times


def _run(candidate: Candidate) -> Tensor:
    arguments = list(candidate.inputs)
    if candidate.kind == "position":
        arguments += candidate.parameters
    if candidate.autocast is None:
        return candidate.function(*arguments)
    with torch.autocast(candidate.inputs[0].device.type, dtype=candidate.autocast):
        return candidate.function(*arguments)


def _forward(candidate: Candidate) -> None:
    _set_training(candidate, False)
    with torch.no_grad():
        _run(candidate)


def _training_step(candidate: Candidate) -> Callable[[Candidate], tuple[Tensor, ...]]:
    _set_training(candidate, True)
    with torch.no_grad():
        gradient = torch.ones_like(_run(candidate), memory_format=torch.contiguous_format)
    leaves = [*candidate.inputs, *(p for p in candidate.parameters if p.requires_grad)]

    def step(candidate: Candidate) -> tuple[Tensor, ...]:
        _set_training(candidate, True)
        return torch.autograd.grad(_run(candidate), leaves, gradient)

    return step


def _set_training(candidate: Candidate, training: bool) -> None:
    if isinstance(candidate.function, torch.nn.Module):
        candidate.function.train(training)


def saved_bytes(candidate: Candidate) -> int:
    """Bytes that autograd keeps from a forward to its backward, without parameters.

    A storage that several tensors share counts once.
    """
    owned = [*candidate.parameters]
    if isinstance(candidate.function, torch.nn.Module):
        owned += candidate.function.buffers()
    permanent = {tensor.untyped_storage()._cdata for tensor in owned}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in permanent:
            kept[storage._cdata] = storage  # the reference keeps its address from being reused
        return tensor

    _set_training(candidate, True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = _run(candidate)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def _peak_mib(candidate: Candidate) -> float | None:
    step = _training_step(candidate)
    if not candidate.inputs[0].is_cuda:
        step(candidate)  # once, as on a GPU: libraries prepare themselves
        return None
    for _ in range(2):  # the first may look for the fastest algorithm, with memory of its own
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(candidate)
        torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 3)


def _compare(chosen: list[tuple[Candidate, dict]], shape: Shape, protocol: Protocol) -> None:
    """Compute the errors of position lambdas on the first image, and write them to the rows."""
    if not chosen:
        return
    inputs = position_inputs(shape, protocol.device, protocol.dtype, protocol.seed)
    inputs = [inputs[0][:1], inputs[1][:1], inputs[2]]
    size = (1, inputs[0].shape[1], inputs[1].shape[2], shape.height, shape.width)
    weight = torch.randn(size, generator=torch.Generator().manual_seed(protocol.seed + 1))
    weight = weight.to(protocol.device, protocol.dtype)

    def with_gradients(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        output = function(*leaves)
        return [output.detach(), *torch.autograd.grad(output, leaves, weight.to(output.dtype))]

    exact = with_gradients(
        lambda *tensors: position_lambda(*tensors, backend="conv"), [t.double() for t in inputs]
    )
    for candidate, row in chosen:
        with contextlib.suppress(_OUT_OF_MEMORY):
            found = with_gradients(candidate.function, inputs)
            errors = [
                ((tensor.double() - true).norm() / true.norm()).item()
                for tensor, true in zip(found, exact, strict=True)
            ]
            # JSON has no NaN, and max() passes over one.
            row["error"] = errors[0] if math.isfinite(errors[0]) else None
            finite = all(map(math.isfinite, errors[1:]))
            row["gradient_error"] = max(errors[1:]) if finite else None
