"""Compiles the kernels of the ``"triton"`` back end for GPUs that are not there.

Triton's wheel carries its compiler and NVIDIA's assembler, so a CPU is enough. The kernels are
specialised as a launch would do it, by the divisibility of their arguments: Triton's own
just-in-time path compiles them, with a stand-in for the driver that names the GPU.

Importing this module does not import Triton.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lambda_det.layers import triton_launch
from lambda_det.layers.triton_lambda import plan_for

ARCHITECTURES = {
    80: 166_912,  # A100
    86: 101_376,  # RTX 30, A40
    89: 101_376,  # RTX 40, L4
    90: 232_448,  # H100, H200
    100: 232_448,  # B200
}
"""Compute capability (times ten) -> bytes of shared memory that one program may use, by the table
"Technical Specifications per Compute Capability" of the CUDA programming guide."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Shape:
    """A position lambda: N images of H x W positions with v channels, 4 heads of depth 16, u 1."""

    stage: str
    images: int
    height: int
    width: int
    channels: int
    heads: int = 4
    depth: int = 16
    sets: int = 1
    scope: int = 23


SHAPES = (
    Shape("res4", 8, 64, 64, 64),
    Shape("res4", 1, 64, 64, 64),
    Shape("res4", 2, 50, 84, 64),
    Shape("res5.0", 8, 64, 64, 128),
    Shape("res5.0", 1, 50, 84, 128),
    Shape("res5", 8, 32, 32, 128),
    Shape("res5", 1, 25, 42, 128),
)
"""Lambda layers of detectors: images of 1024 x 1024 pixels, and of 800 x 1344. The first block of
res5 has its lambda layer before the stride."""


@dataclass(frozen=True)
class Call:
    """One launch of a kernel: what :data:`lambda_det.layers.triton_launch.Launch` gets."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


def calls(shape: Shape, dtype: torch.dtype) -> list[Call]:
    """The launches of a forward and a backward pass; nothing is computed.

    A forward pass that the fused kernel can compute is made without it, too, so that every kernel
    is there.
    """
    made: list[Call] = []

    def record(kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
        made.append(Call(kernel, grid, arguments))

    positions = (shape.height, shape.width)
    query = torch.empty(
        shape.images, shape.heads, shape.depth, *positions, dtype=dtype, device="meta"
    )
    value = torch.empty(
        shape.images, shape.sets, shape.channels, *positions, dtype=dtype, device="meta"
    )
    embedding = torch.empty(shape.depth, shape.sets, shape.scope, shape.scope, device="meta")
    plan = plan_for(query, value, embedding)
    for some in dict.fromkeys((plan, replace(plan, fused=None))):
        output = triton_launch.forward(query, value, embedding, some, record)
    triton_launch.backward(query, value, embedding, output.to(dtype), plan, record)
    return made


class _StandIn:
    """What Triton's just-in-time path asks a driver while it compiles."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # a kernel keeps what is compiled by this number

    def get_current_stream(self, _device: int) -> int:
        return 0


@contextlib.contextmanager
def compiler_for(architecture: int) -> Iterator[None]:
    """Let Triton compile for ``architecture``, into a folder that is removed afterwards."""
    import triton

    driver = triton.runtime.driver
    before = driver._active  # the property would look for a GPU
    cache = triton.knobs.cache
    with tempfile.TemporaryDirectory() as folder, cache.scope():
        cache.dir = folder
        driver.set_active(_StandIn(architecture))
        try:
            yield
        finally:
            driver.set_active(before)


def compile_call(call: Call, architecture: int, **options: Any) -> Any:
    """Compile the kernel as this launch needs it.

    Args:
        call: the launch.
        architecture: a key of :data:`ARCHITECTURES`.
        options: options of Triton in addition to those of the launch.

    Returns:
        Triton's compiled kernel: ``asm`` has its forms by name, ``metadata`` its properties.
    """
    from triton.runtime.jit import MockTensor

    arguments = {
        name: MockTensor(value.dtype) if isinstance(value, torch.Tensor) else value
        for name, value in call.arguments.items()
    }
    with compiler_for(architecture):
        return call.kernel.warmup(grid=call.grid, **arguments, **options)
