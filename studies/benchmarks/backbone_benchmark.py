"""Measurement of time and memory of whole backbones with FPN, in turns."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lambda_det.analysis.memory import activation_bytes
from lambda_det.layers.precision import autocast_to
from studies.benchmarks.backbone_forms import BASELINE, BY_DEFAULT, MODELS, build_model

_SLOW = 3
"""A model is slow if its training step takes more than this multiple of the baseline's."""

_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
_STEPS = ("train", "inference")


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        size: (H, W) of the images in pixels, multiples of 32.
        batch: number of images in a step.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: type of the images and weights; a half type means autocast with float32 weights.
        channels_last: whether images and weights have the channels-last memory layout.
        repetitions: number of turns; a slow model takes part in every third.
        models: keys of ``MODELS``; the baseline is always measured.
        seed: seed of images and weights.
    """

    size: tuple[int, int] = (800, 1344)
    batch: int = 1
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    repetitions: int = 9
    models: tuple[str, ...] = BY_DEFAULT
    seed: int = 0


def benchmark_backbones(
    depths: Sequence[int], protocol: Protocol, progress: Callable[[str], None] = lambda _: None
) -> list[dict]:
    """Measure the models of every depth.

    In a turn, every model does one training step and one inference, one after another. A training
    step is a forward and a backward from the mean of all features to all parameters, without an
    optimizer. Each model does one of each, without measurement, before the turns. If its training
    step takes more than three times as long as the baseline's, it takes part in every third turn
    only.

    Args:
        depths: depths of the backbones.
        protocol: how to measure.
        progress: called with a line of text before every turn.

    Returns:
        A row for each model, with ``model, label, depth, height, width, batch, device, dtype,
        channels_last``; for ``train`` and ``inference``: ``_ms`` of a step (median over the turns,
        with quartiles ``_q1_ms`` and ``_q3_ms``), ``_runs``, ``_images_per_s``, and ``_ratio``: the
        time divided by the baseline's of the same turn (median, with ``_ratio_q1`` and
        ``_ratio_q3``); ``saved_mib``: what autograd keeps from a forward to its backward besides
        parameters, each storage once; ``train_peak_mib`` and ``inference_peak_mib``: the most
        memory allocated in a step, including the model's parameters (on CUDA; None on a CPU);
        ``note``: the reason if it could not be measured.

    Raises:
        InputError: the family does not have a depth.
    """
    rows: list[dict] = []
    for depth in depths:
        with _fastest_algorithms(protocol):
            rows += _benchmark_depth(depth, protocol, progress)
        gc.collect()
    return rows


@contextlib.contextmanager
def _fastest_algorithms(protocol: Protocol) -> Iterator[None]:
    """Let cuDNN measure its algorithms and take the fastest, as is usual for a fixed image size."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = protocol.device.startswith("cuda")
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _benchmark_depth(depth: int, protocol: Protocol, progress: Callable[[str], None]) -> list[dict]:
    images = _images(protocol)
    contestants: list[Contestant] = []
    rows = []
    for name in [BASELINE, *(name for name in protocol.models if name != BASELINE)]:
        row = _new_row(name, depth, protocol)
        rows.append(row)
        progress(f"{row['label']}: memory")
        contestant = Contestant(build_model(name, depth, protocol.seed), images, protocol, row)
        try:
            contestant.measure_memory()
        except (_OUT_OF_MEMORY, RuntimeError) as error:
            row["note"] = str(error).splitlines()[0][:200]
            continue
        contestants.append(contestant)
    if "note" in rows[0]:
        return rows
    baseline = contestants[0]
    for contestant in contestants:
        slow = contestant.warm_up["train"] > _SLOW * baseline.warm_up["train"]
        contestant.every = _SLOW if slow else 1
    for turn in range(protocol.repetitions):
        taking_part = [c for c in contestants if turn % c.every == 0]
        first = turn % len(taking_part)  # each time after another model's step
        taking_part = taking_part[first:] + taking_part[:first]
        progress(f"turn {turn + 1} of {protocol.repetitions}")
        for step in _STEPS:
            for contestant in taking_part:
                contestant.times[step][turn] = contestant.milliseconds(step)
    for contestant in contestants:
        contestant.summarise(baseline)
    return rows


def _images(protocol: Protocol) -> Tensor:
    generator = torch.Generator().manual_seed(protocol.seed)
    images = torch.randn(protocol.batch, 3, *protocol.size, generator=generator)
    layout = torch.channels_last if protocol.channels_last else torch.contiguous_format
    dtype = torch.float64 if protocol.dtype == torch.float64 else torch.float32
    return images.to(protocol.device, dtype, memory_format=layout)


def _new_row(name: str, depth: int, protocol: Protocol) -> dict:
    return {
        "model": name,
        "label": MODELS[name].label.format(depth),
        "depth": depth,
        "height": protocol.size[0],
        "width": protocol.size[1],
        "batch": protocol.batch,
        "device": protocol.device,
        "dtype": str(protocol.dtype).removeprefix("torch."),
        "channels_last": protocol.channels_last,
    }


class Contestant:
    """A model that takes part in the turns, with its times and its row.

    Args:
        model: maps images to a dict of features.
        images: the input, on the device.
        protocol: how to measure.
        row: the row of the record, which gets the numbers.
    """

    def __init__(self, model: nn.Module, images: Tensor, protocol: Protocol, row: dict) -> None:
        layout = torch.channels_last if protocol.channels_last else torch.contiguous_format
        self.model = model.to(images.device, images.dtype, memory_format=layout)
        self.images = images
        self.row = row
        self.every = 1
        self.warm_up: dict[str, float] = {}
        self.times: dict[str, dict[int, float]] = {step: {} for step in _STEPS}
        is_half = protocol.dtype in (torch.bfloat16, torch.float16)
        self._autocast = (protocol.dtype if is_half else None, images.device.type)

    def measure_memory(self) -> None:
        """Run each step for the first time, and write its memory to the row."""
        self.model.train()
        with autocast_to(*self._autocast):
            self.row["saved_mib"] = round(
                activation_bytes(self.model, self.images).total() / 2**20, 1
            )
        for step in _STEPS:
            if self.images.is_cuda:  # cuDNN's search for algorithms needs memory too
                self.milliseconds(step)
            self._forget_memory()
            self.warm_up[step] = self.milliseconds(step)
            self.row[f"{step}_peak_mib"] = self._peak_mib()

    def milliseconds(self, step: str) -> float:
        """Run one training step or inference and return its time in milliseconds."""
        call = {"train": self._training_step, "inference": self._inference}[step]
        self.model.train(step == "train")
        self._synchronize()
        start = time.perf_counter()
        call()
        self._synchronize()
        milliseconds = 1000 * (time.perf_counter() - start)
        self.model.zero_grad(set_to_none=True)
        return milliseconds

    def summarise(self, baseline: Contestant) -> None:
        """Write the times, and their ratios to the baseline's of the same turns, to the row."""
        for step, times in self.times.items():
            first, median, third = quartiles(list(times.values()))
            self.row |= {
                f"{step}_ms": round(median, 2),
                f"{step}_q1_ms": round(first, 2),
                f"{step}_q3_ms": round(third, 2),
                f"{step}_runs": len(times),
                f"{step}_images_per_s": round(1000 * len(self.images) / median, 4),
            }
            ratios = [time / baseline.times[step][turn] for turn, time in times.items()]
            first, median, third = quartiles(ratios)
            self.row |= {
                f"{step}_ratio": round(median, 4),
                f"{step}_ratio_q1": round(first, 4),
                f"{step}_ratio_q3": round(third, 4),
            }

    def _training_step(self) -> None:
        with autocast_to(*self._autocast):
            features = self.model(self.images)
            loss = sum(feature.mean(dtype=self.images.dtype) for feature in features.values())
        loss.backward()

    def _inference(self) -> None:
        with torch.no_grad(), autocast_to(*self._autocast):
            self.model(self.images)

    def _synchronize(self) -> None:
        if self.images.is_cuda:
            torch.cuda.synchronize()

    def _forget_memory(self) -> None:
        if self.images.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    def _peak_mib(self) -> float | None:
        if not self.images.is_cuda:
            return None
        own = sum(t.nbytes for t in [*self.model.parameters(), *self.model.buffers()])
        step = torch.cuda.max_memory_allocated() - self._before
        return round((own + step) / 2**20, 1)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third
