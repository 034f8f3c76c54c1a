"""The parts of :mod:`studies.gpu.all`: what a few minutes of a GPU are spent on, and in what order.

Each part is a generator of rows of a record, so that a part that is stopped leaves what it has.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lambda_det.errors import first_line_of
from lambda_det.layers import position_lambda
from lambda_det.layers.autotune import VARIABLE
from lambda_det.layers.choices import CHOICES
from lambda_det.layers.measurement import TF32_TOLERANCE, TOLERANCES
from lambda_det.layers.position_lambda import BACKENDS
from lambda_det.layers.triton_lambda import unsupported
from studies.benchmarks import backbone_benchmark, layer_benchmark
from studies.benchmarks.layer_forms import STAGES, position_inputs, shapes_of_image
from studies.gpu.steps import graph_rows, training_rows, waiting_rows

Rows = Iterator[dict]
SEED = 0


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured.

    Attributes:
        device: ``"cuda"`` or ``"cpu"``.
        tiny: sizes at which every part takes seconds on a CPU; its numbers mean nothing.
        folder: an empty folder for the files of trainings, and for the user's cache.
    """

    device: str
    tiny: bool
    folder: str

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        half = (torch.bfloat16,) if self.tiny else (torch.bfloat16, torch.float16)
        return (*half, torch.float32)


# ---- correctness ----

Sizes = tuple[int, int, int, int, int, int, int, int]
"""N, h, k, u, v, H, W and the side of the window."""

REAL: tuple[Sizes, ...] = (
    (8, 4, 16, 1, 64, 64, 64, 23),  # res4 of images of 1024 x 1024
    (8, 4, 16, 1, 128, 32, 32, 23),  # res5
    (2, 4, 16, 1, 64, 50, 84, 23),  # res4 of 800 x 1344
)
ODD: tuple[Sizes, ...] = (
    (2, 4, 16, 2, 32, 13, 37, 23),  # intra-depth 2
    (1, 8, 8, 1, 16, 7, 5, 13),  # a window larger than the image
    (3, 2, 24, 3, 20, 9, 11, 7),
)


def correctness(setting: Setting) -> Rows:
    """Errors of output and gradients of every back end against float64, and whether a second
    computation has the same bits."""
    for sizes in ODD[1:] if setting.tiny else (*REAL, *ODD):
        n, h, k, u, v, height, width, side = sizes
        shapes = ((n, h, k, height, width), (n, u, v, height, width), (k, u, side, side))
        generator = torch.Generator().manual_seed(SEED)
        doubles = [
            torch.randn(shape, generator=generator, dtype=torch.float64).to(setting.device)
            for shape in shapes
        ]
        weight = torch.randn((n, h, v, height, width), generator=generator, dtype=torch.float64)
        weight = weight.to(setting.device)
        for dtype in setting.dtypes:
            # The embeddings are parameters, which stay in float32 under autocast.
            inputs = [doubles[0].to(dtype), doubles[1].to(dtype), doubles[2].float()]
            exact = _with_gradients("conv", [tensor.double() for tensor in inputs], weight)
            for tf32 in (False, True) if dtype is torch.float32 and setting.on_gpu else (None,):
                for backend in BACKENDS:
                    row = dict(
                        zip(("n", "h", "k", "u", "v", "height", "width"), sizes, strict=False)
                    )
                    row |= {"scope": side, "dtype": _name(dtype), "tf32": tf32, "backend": backend}
                    with _tf32(tf32):
                        errors = _errors(backend, inputs, weight, exact)
                    if "note" not in errors:
                        tolerance = TF32_TOLERANCE if tf32 else TOLERANCES[dtype]
                        found = [errors[name] for name in ERRORS]
                        errors["right"] = None not in found and max(found) <= tolerance
                    yield row | errors


ERRORS = ("error", "query_error", "value_error", "embedding_error")


def _errors(
    backend: str, inputs: list[Tensor], weight: Tensor, exact: list[Tensor]
) -> dict[str, Any]:
    """Relative errors, None if a number is not finite; or the reason why there are none."""
    if backend == "triton" and (reason := unsupported(*inputs)) is not None:
        return {"note": reason}
    try:
        found, again = (_with_gradients(backend, inputs, weight) for _ in range(2))
    except Exception as error:  # of a compiler, a driver or the memory: the others go on
        return {"note": f"{type(error).__name__}: {first_line_of(error)}"[:200]}
    errors = [
        ((one.double() - true).norm() / true.norm()).item()
        for one, true in zip(found, exact, strict=True)
    ]
    rounded = [float(f"{error:.3g}") if math.isfinite(error) else None for error in errors]
    same = all(map(torch.equal, found, again))
    return dict(zip(ERRORS, rounded, strict=True)) | {"same_bits_twice": same}


def _with_gradients(backend: str, inputs: list[Tensor], weight: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    output = position_lambda(*leaves, backend=backend)
    gradients = torch.autograd.grad(output, leaves, weight.to(output.dtype))
    return [output.detach(), *gradients]


@contextlib.contextmanager
def _tf32(allowed: bool | None) -> Iterator[None]:
    """Whether products of float32 may be taken in TensorFloat-32, by cuDNN and by cuBLAS; None =
    as PyTorch has it."""
    if allowed is None:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# ---- speed and memory, by the benchmarks ----

FORMS = (
    "auto", "conv", "triton", "conv2d form", "conv3d form", "depthwise form", "packed form, 8",
    "packed form, 16", "LambdaLayer", "3x3 convolution", "SE",
)  # fmt: skip


def layers(setting: Setting) -> Rows:
    """``benchmark.py layers`` at batch 8 and 1024 x 1024, in bfloat16."""
    protocol = layer_benchmark.Protocol(
        device=setting.device, dtype=torch.bfloat16, rounds=1 if setting.tiny else 2,
        repetitions=1 if setting.tiny else 5, forms=FORMS, seed=SEED,
    )  # fmt: skip
    image, batch = ((64, 96), 1) if setting.tiny else ((1024, 1024), 8)
    for stage in ("res4", "res5"):
        yield from layer_benchmark.benchmark_layers(
            shapes_of_image(*image, [stage], [batch]), protocol
        )


def backbones(setting: Setting) -> Rows:
    """``benchmark.py backbones`` at batch 8 and 1024 x 1024, in bfloat16, in both layouts."""
    own = ("lambda-triton", "lambda-conv") if setting.on_gpu else ("lambda-conv",)
    size, batch, depth = ((64, 96), 1, 26) if setting.tiny else ((1024, 1024), 8, 101)
    for channels_last in (False, True):
        protocol = backbone_benchmark.Protocol(
            size=size, batch=batch, device=setting.device, dtype=torch.bfloat16,
            channels_last=channels_last, repetitions=2 if setting.tiny else 9,
            models=("resnet", "se", "lambda", *own), seed=SEED,
        )  # fmt: skip
        yield from backbone_benchmark.benchmark_backbones([depth], protocol)


# ---- what "auto" chooses ----


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def choices(setting: Setting) -> Rows:
    """What ``"auto"`` measures and chooses at the sizes of a detector, without earlier choices."""
    os.environ[VARIABLE] = "1"
    os.environ["XDG_CACHE_HOME"] = setting.folder
    logger = logging.getLogger("lambda_det.layers")
    logger.setLevel(logging.INFO)
    images = [((64, 96), 1)] if setting.tiny else [((1024, 1024), 8), ((800, 1344), 2)]
    for image, batch in images:
        for shape in shapes_of_image(*image, [s for s in STAGES if s != "res2"], [batch]):
            for dtype in setting.dtypes:
                inputs = position_inputs(shape, setting.device, dtype, SEED)
                for training in (True, False):
                    CHOICES.clear()  # a similar shape may have chosen for this one
                    row = {**vars(shape), "dtype": _name(dtype), "training": training}
                    logger.addHandler(lines := _Lines())
                    for tensor in inputs:
                        tensor.requires_grad_(training)
                    with torch.set_grad_enabled(training):
                        position_lambda(*inputs)
                    logger.removeHandler(lines)
                    yield row | _said(lines.lines)


def _said(lines: list[str]) -> dict[str, object]:
    """The choice and the times of back ends in lines of the log, and the lines of another kind."""
    text = "\n".join(lines)
    choice = re.search(r"position lambda: '(\w+)' for ", text)
    times = {f"{n}_ms": float(ms) for n, ms in re.findall(r"'(\w+)' ([\d.e+-]+) ms", text)}
    others = [line for line in lines if " ms)" not in line]
    row = {"choice": choice[1] if choice else None} | times
    return row | ({"note": " / ".join(others)[:300]} if others else {})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- steps ----


def waits(setting: Setting) -> Rows:
    """Where the host waits for the GPU in iterations of a training."""
    return waiting_rows(setting.device, setting.folder, tiny=setting.tiny)


def graphs(setting: Setting) -> Rows:
    """Whether a backbone's step can be captured as a CUDA graph, and computes the same."""
    return graph_rows(setting.device, ("triton", "conv", "auto"))


def stability(setting: Setting) -> Rows:
    """Trainings of 300 iterations in half precision, beside one in float32."""
    kinds = [("bfloat16", "conv"), ("float32", "conv")]
    if setting.on_gpu:
        kinds = [("bfloat16", "triton"), ("float16", "triton"), *kinds, ("float16", "conv")]
    for precision, backend in kinds:
        yield from training_rows(
            setting.device, setting.folder, precision, backend, tiny=setting.tiny
        )


@dataclass(frozen=True)
class Part:
    """A part.

    Attributes:
        rows: makes the rows.
        most_s: seconds after which it is stopped.
    """

    rows: Callable[[Setting], Rows]
    most_s: int


PARTS = {
    "correctness": Part(correctness, 120),
    "layers": Part(layers, 120),
    "backbones": Part(backbones, 240),
    "waits": Part(waits, 60),
    "graphs": Part(graphs, 60),
    "choices": Part(choices, 90),
    "stability": Part(stability, 300),
}
"""Name -> part, the most important first."""
