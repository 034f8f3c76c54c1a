"""Counts what a pass of the ``"triton"`` back end does on a GPU: products, and bytes that move.

The kernels are counted in their TTIR, program by program; what PyTorch computes around them, from
the shapes of its operators. Nothing is computed.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lambda_det.layers import triton_launch
from lambda_det.layers.triton_lambda import plan_for
from studies.gpu.ahead_of_time import Call, Shape, compile_call
from studies.gpu.evaluate import Program
from studies.gpu.ttir import Function, Loop, Operation, parse


@dataclass
class Counts:
    """What one kernel or operator does.

    Attributes:
        name: of the kernel or operator.
        flops: multiplications and additions of matrix products, those under false masks included.
        loaded_bytes: what the loads of all programs ask for, from whatever cache, those under false
            masks included.
        memory_bytes: all tensors that it reads or writes, each once.
    """

    name: str
    flops: int = 0
    loaded_bytes: int = 0
    memory_bytes: int = 0


def count_passes(shape: Shape, dtype: torch.dtype, architecture: int) -> dict[str, list[Counts]]:
    """Count the forward and the backward pass.

    Returns:
        For ``"forward"`` and ``"backward"`` the counts of each launch, in order.
    """
    positions = (shape.height, shape.width)
    with FakeTensorMode():
        options = {"dtype": dtype, "device": "cuda"}
        # In memory as the layer gives them: (N, H, W, channels).
        query = torch.empty(shape.images, *positions, shape.heads, shape.depth, **options)
        value = torch.empty(shape.images, *positions, shape.sets, shape.channels, **options)
        query, value = (tensor.permute(0, 3, 4, 1, 2) for tensor in (query, value))
        embedding = torch.empty(shape.depth, shape.sets, shape.scope, shape.scope, device="cuda")
        plan = plan_for(query, value, embedding)
        with _Recorder() as forward:
            output = triton_launch.forward(query, value, embedding, plan, forward.launch)
        with _Recorder() as backward:
            gradient = output.to(dtype)
            triton_launch.backward(query, value, embedding, gradient, plan, backward.launch)
    passes = {"forward": forward.found, "backward": backward.found}
    return {
        name: [
            _count_call(work, architecture) if isinstance(work, Call) else work for work in works
        ]
        for name, works in passes.items()
    }


class _Recorder(TorchDispatchMode):
    """Counts PyTorch's operators within it, and keeps the calls that ``launch`` gets."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Counts | Call] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        moves = "view" not in name and "empty" not in name and not func.is_view
        if moves and isinstance(result, Tensor):
            given = [value for value in args if isinstance(value, Tensor)]
            counts = Counts(name, memory_bytes=sum(map(_bytes, (*given, result))))
            if name == "bmm":
                counts.flops = 2 * given[0].numel() * given[1].shape[-1]
            self.found.append(counts)
        return result

    def launch(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
        self.found.append(Call(kernel, grid, arguments))


def _count_call(call: Call, architecture: int) -> Counts:
    function = parse(compile_call(call, architecture).asm["ttir"])
    tensors = [value for value in call.arguments.values() if isinstance(value, Tensor)]
    counts = count(function, call.grid, call.arguments)
    counts.name, counts.memory_bytes = call.name, sum(map(_bytes, tensors))
    return counts


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def count(function: Function, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> Counts:
    """Count the products and loads of all programs of a launch.

    Only numbers are computed, no tensors. Each iteration of a loop is taken to do what the first
    one does.
    """
    counts = Counts("")
    values = {
        f"%{name}": None
        if isinstance(arguments[name], Tensor)
        else torch.tensor(arguments[name], dtype=torch.int32)
        for name in function.arguments
    }
    for place in itertools.product(*(range(size) for size in grid)):
        _CountedProgram(place, dict(values), counts).block(function.body)
    return counts


class _CountedProgram(Program):
    """One program, in which every tensor is None."""

    def __init__(self, place: tuple[int, ...], values: dict[str, Any], counts: Counts) -> None:
        super().__init__(0, place, values)
        self.counts = counts

    def loop(self, loop: Loop) -> None:
        low, high, step = (int(self.values[bound]) for bound in loop.bounds)
        times = len(range(low, high, step))
        self.values[loop.index] = torch.tensor(low, dtype=torch.int32)
        self.values.update({name: None for name, _ in loop.carried})
        self.values.update(dict.fromkeys(loop.results))
        if times:
            flops, loaded = self.counts.flops, self.counts.loaded_bytes
            self.block(loop.body)
            self.counts.flops = flops + times * (self.counts.flops - flops)
            self.counts.loaded_bytes = loaded + times * (self.counts.loaded_bytes - loaded)

    def operation(self, step: Operation, operands: list) -> tuple:
        if step.name == "tt.dot":
            inner = re.findall(r"(\d+)x", step.types.split("*")[0])[-1]
            self.counts.flops += 2 * math.prod(step.shape) * int(inner)
        elif step.name == "tt.load":
            self.counts.loaded_bytes += math.prod(step.shape) * step.pointee.itemsize
        if step.shape or any(operand is None for operand in operands) or not step.results:
            return (None,) * len(step.results)
        return super().operation(step, operands)
