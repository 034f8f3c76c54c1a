"""Checks and times back ends of the position lambda on the tensors of a call.

Nothing of the training around it changes: the back ends compute copies, and the random state, the
gradients and the graph of autograd stay what they are.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lambda_det.errors import first_line_of
from lambda_det.layers.precision import (
    at_least_float32,
    common_dtype,
    tf32_is_allowed,
    without_autocast,
)

logger = logging.getLogger(__name__)

BackEnd = Callable[[Tensor, Tensor, Tensor], Tensor]

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Common type of query and value -> the largest error of a back end that is right, relative to the
result of ``"conv"``, in the Euclidean and in the maximum norm."""

TF32_TOLERANCE = 5e-3
"""The same for float32 on a GPU where products of float32 may be taken in TensorFloat-32."""

ROUNDS = 7  # measurements of each candidate, of which the shortest counts
CLEARLY = 2.0  # a candidate that takes this many times as long as the fastest is measured no more,
ENOUGH = 3  # once it was measured this many times (a busy machine can delay one call eightfold),
LONG_S = 0.1  # or at once if it takes longer than this
SHORTEST_S = 1e-3  # a faster candidate is repeated within one measurement for about this long
BUDGET_S = 1.0  # no new round of measurements begins after this time

_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)

_warned_of: set[str] = set()


def fastest_right_one(
    backends: Mapping[str, BackEnd], tensors: Sequence[Tensor], call: str
) -> tuple[str, bool] | None:
    """Check and time back ends, the first of which judges the others.

    Args:
        backends: name -> back end.
        tensors: query, value and embedding of the call.
        call: what a log line calls it.

    Returns:
        The fastest right one, and whether all are right; None if the first one's result is
        zero, or its result or a gradient is not finite, so that nothing can be compared with it.
    """
    query, value, embedding = tensors
    judge = next(iter(backends))
    try:
        return _compared(backends, tensors, call)
    except _OUT_OF_MEMORY as error:
        reason = first_line_of(error)
    except Exception as error:  # the first one's; the call itself will raise it
        logger.debug("position lambda: nothing is measured: %s", error)
        return judge, False
    finally:
        if query.is_cuda:
            torch.cuda.empty_cache()
    if len(query) > 1:
        return fastest_right_one(backends, [query[:1], value[:1], embedding], call)
    logger.warning("position lambda: %r for %s, unmeasured (%s)", judge, call, reason)
    return judge, False


def _compared(
    backends: Mapping[str, BackEnd], tensors: Sequence[Tensor], call: str
) -> tuple[str, bool] | None:
    calls, query = _calls(backends, tensors), tensors[0]
    with _undisturbed(query):
        right = _right_ones(calls, tolerance_of(*tensors), call)
        times = _times(right, query) if len(right) > 1 else dict.fromkeys(right, 0.0)
    if not right:
        return None
    fastest = min(times, key=times.__getitem__)
    said = ", ".join(f"{name!r} {1000 * seconds:.3g} ms" for name, seconds in times.items())
    if len(right) == 1:
        said = "no other one is right"
    logger.info("position lambda: %r for %s (%s)", fastest, call, said)
    return fastest, len(right) == len(backends)


def _right_ones(
    calls: Mapping[str, Callable[[], list[Tensor]]], tolerance: float, call: str
) -> dict[str, Callable[[], list[Tensor]]]:
    """The calls whose results are those of the first one; none if its own are no judge."""
    judge, *others = calls
    exact = calls[judge]()
    largest = torch.stack([tensor.abs().max().double() for tensor in exact]).tolist()
    if largest[0] == 0 or not all(map(math.isfinite, largest)):
        return {}
    right = {judge: calls[judge]}
    for name in others:
        try:
            error = max(map(_error, calls[name](), exact))
        except _OUT_OF_MEMORY:
            raise
        except Exception as reason:  # of a compiler or a driver
            _warn_once(name, f"fails with {type(reason).__name__}: {first_line_of(reason)}", call)
            continue
        if error <= tolerance:
            right[name] = calls[name]
        else:
            text = f"differs from {judge!r} by a share of {error:.2g}, {tolerance:g} is allowed"
            _warn_once(name, text, call)
    return right


def tolerance_of(query: Tensor, value: Tensor, embedding: Tensor) -> float:
    """The largest error that a right back end has, see :data:`TOLERANCES`."""
    dtype = common_dtype(query, value)
    if query.is_cuda and dtype == torch.float32 and any(tf32_is_allowed()):
        return TF32_TOLERANCE
    return TOLERANCES.get(dtype, max(TOLERANCES.values()))


def _calls(
    backends: Mapping[str, BackEnd], tensors: Sequence[Tensor]
) -> dict[str, Callable[[], list[Tensor]]]:
    """Back end -> a function that computes the output, and the gradients that are needed, of copies
    of the tensors, so that a back end that writes its inputs changes nothing of the training."""
    with_gradient = torch.is_grad_enabled()
    copies = [t.detach().clone().requires_grad_(with_gradient and t.requires_grad) for t in tensors]
    wanted = [copy for copy in copies if copy.requires_grad]
    gradients: list[Tensor] = []

    def run(backend: BackEnd) -> list[Tensor]:
        output = backend(*copies)
        if not wanted:
            return [output]
        if not gradients:
            generator = torch.Generator(output.device).manual_seed(0)  # leaves PyTorch's own alone
            gradients.append(
                torch.randn(
                    output.shape, generator=generator, device=output.device, dtype=output.dtype
                )
            )
        return [output.detach(), *torch.autograd.grad(output, wanted, gradients[0])]

    return {name: functools.partial(run, backend) for name, backend in backends.items()}


@contextlib.contextmanager
def _undisturbed(query: Tensor) -> Iterator[None]:
    """A context for computations that the training around them does not notice."""
    # Activation checkpointing counts the tensors that are saved for the backward pass.
    unseen = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with without_autocast(query), unseen:
        yield


def _error(found: Tensor, exact: Tensor) -> float:
    """The larger of the errors in the Euclidean and in the maximum norm, relative to ``exact``;
    infinite if a number is not finite."""
    dtype = at_least_float32(exact.dtype)
    pairs = [
        torch.stack([tensor.abs().max(), torch.linalg.vector_norm(tensor)]).tolist()
        for tensor in (found.to(dtype) - exact.to(dtype), exact.to(dtype))
    ]
    errors = [error / size if size else error for error, size in zip(*pairs, strict=True)]
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def _times(calls: Mapping[str, Callable[[], object]], query: Tensor) -> dict[str, float]:
    """Seconds of each call, which has run before; the calls take turns."""
    times = dict.fromkeys(calls, math.inf)
    running, start = list(calls), time.perf_counter()
    for number in range(ROUNDS):
        for name in running:
            known = times[name]
            repeats = min(20, max(1, round(SHORTEST_S / known))) if number else 1
            times[name] = min(known, seconds_of(name, calls[name], repeats, query))
        fastest = min(times.values())
        running = [
            name
            for name in running
            if times[name] < CLEARLY * fastest or (number + 1 < ENOUGH and times[name] < LONG_S)
        ]
        if len(running) == 1 or time.perf_counter() - start > BUDGET_S:
            break
    return times


def seconds_of(name: str, call: Callable[[], object], repeats: int, query: Tensor) -> float:
    """Seconds that a call of the back end ``name`` takes on the device of ``query``."""
    synchronize = torch.cuda.synchronize if query.is_cuda else _nothing
    synchronize(query.device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(query.device)
    return max(1e-9, (time.perf_counter() - start) / repeats)


def _nothing(_device: torch.device) -> None:
    """A CPU has nothing to wait for."""


def _warn_once(name: str, reason: str, call: str) -> None:
    if name not in _warned_of:
        _warned_of.add(name)
        logger.warning(
            "position lambda: back end %r is not used, it %s (%s)", name, " ".join(reason.split()),
            call,
        )  # fmt: skip
