"""Runs a kernel's TTIR on a CPU, with torch.

Triton's interpreter runs the Python source of a kernel. This runs what the compiler's front end
makes of it for a GPU, so it also finds faults of the front end. What lies below TTIR (layouts,
shared memory, the assembler) is not seen. The programs of a launch run one after another, but what
one of them writes no other one may read or write: on a GPU their order is open.

It knows the operations that the kernels here need.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studies.gpu.ahead_of_time import Call, compile_call
from studies.gpu.ttir import Function, Loop, Operation, parse

SECTOR_BYTES = 32
"""What a GPU moves between its caches at least."""

_NOBODY, _SEVERAL = -1, -2


class MemoryFault(Exception):
    """A program reads or writes where it may not."""


@dataclass
class Traffic:
    """Bytes that loads ask for, and bytes of the sectors in which they lie, load by load."""

    asked: int = 0
    moved: int = 0


class Memory:
    """The elements of a tensor, and which program of the launch has read or written each."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        extent = 1 + sum((size - 1) * stride for size, stride in steps)
        self.name = name
        self.elements = tensor.detach().as_strided((extent,), (1,))
        self.reader = torch.full((extent,), _NOBODY)
        self.writer = torch.full((extent,), _NOBODY)
        self.traffic = Traffic()

    def read(self, places: Tensor, program: int) -> Tensor:
        self._check(places, "reads")
        if _others(self.writer[places], program):
            raise MemoryFault(f"a program reads {self.name} where another one writes")
        reader = self.reader[places]
        alone = (reader == _NOBODY) | (reader == program)
        self.reader[places] = torch.where(alone, program, _SEVERAL)
        size = self.elements.element_size()
        self.traffic.asked += size * places.numel()
        sectors = torch.div(places * size, SECTOR_BYTES, rounding_mode="floor")
        self.traffic.moved += SECTOR_BYTES * sectors.unique().numel()
        return self.elements[places]

    def write(self, places: Tensor, values: Tensor, program: int) -> None:
        self._check(places, "writes")
        if bool((self.writer[places] != _NOBODY).any()) or places.unique().numel() < places.numel():
            raise MemoryFault(f"an element of {self.name} is written twice")
        if _others(self.reader[places], program):
            raise MemoryFault(f"a program writes {self.name} where another one reads")
        self.writer[places] = program
        self.elements[places] = values

    def _check(self, places: Tensor, verb: str) -> None:
        size = self.elements.numel()
        if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < size:
            span = f"elements {int(places.min())} to {int(places.max())}"
            raise MemoryFault(f"a program {verb} {span} of {self.name}, which has {size}")


def _others(who: Tensor, program: int) -> bool:
    return bool(((who != _NOBODY) & (who != program)).any())


@dataclass(frozen=True)
class Pointer:
    """Pointers into one tensor, as offsets of elements."""

    memory: Memory
    offset: Tensor


class Evaluator:
    """Runs, in the place of a kernel, its TTIR as it is compiled for an architecture.

    It is a :data:`lambda_det.layers.triton_launch.Launch` for tensors on the CPU.

    Attributes:
        traffic: of the loads, by the names of kernel and argument.
    """

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture
        self.traffic: dict[tuple[str, str], Traffic] = {}
        self._functions: dict[str, Function] = {}

    def __call__(self, kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any]) -> None:
        call = Call(kernel, grid, arguments)
        compiled = compile_call(call, self.architecture)
        if compiled.hash not in self._functions:
            self._functions[compiled.hash] = parse(compiled.asm["ttir"])
        for name, traffic in run(self._functions[compiled.hash], grid, arguments).items():
            total = self.traffic.setdefault((call.name, name), Traffic())
            total.asked += traffic.asked
            total.moved += traffic.moved


def run(
    function: Function, grid: tuple[int, ...], arguments: Mapping[str, Any]
) -> dict[str, Traffic]:
    """Run all programs of a launch.

    Args:
        function: the kernel.
        grid: number of programs along each axis.
        arguments: by name. Tensors are on the CPU, and the kernel writes to them.

    Returns:
        The traffic of the loads from each tensor, by its name.

    Raises:
        MemoryFault: under a true mask a program reads or writes outside of a tensor, an element is
            written twice, or a program reads what another one writes.
        NotImplementedError: an operation is not known here.
    """
    values: dict[str, Any] = {}
    for name in function.arguments:  # the compiler has made the others constants
        value = arguments[name]
        if isinstance(value, Tensor):
            values[f"%{name}"] = Pointer(Memory(name, value), torch.tensor(0))
        else:
            values[f"%{name}"] = torch.tensor(value, dtype=torch.int32)
    places = itertools.product(*(range(size) for size in grid))
    for number, place in enumerate(places):
        Program(number, place, dict(values)).block(function.body)
    memories = [value.memory for value in values.values() if isinstance(value, Pointer)]
    return {memory.name: memory.traffic for memory in memories}


class Program:
    """One program: its number, its place in the grid, and the values by their names, which are
    unique in a function."""

    def __init__(self, number: int, place: tuple[int, ...], values: dict[str, Any]) -> None:
        self.number, self.place, self.values = number, place, values

    def block(self, body: list[Operation | Loop]) -> list:
        """Run a block; returns what it yields."""
        for step in body:
            if isinstance(step, Loop):
                self.loop(step)
                continue
            operands = [self.values[name] for name in step.operands]
            if step.name == "scf.yield":
                return operands
            results = self.operation(step, operands)
            self.values.update(zip(step.results, results, strict=True))
        return []

    def loop(self, loop: Loop) -> None:
        names, starts = [name for name, _ in loop.carried], [start for _, start in loop.carried]
        state = [self.values[start] for start in starts]
        low, high, step = (int(self.values[bound]) for bound in loop.bounds)
        for index in range(low, high, step):
            self.values[loop.index] = torch.tensor(index, dtype=torch.int32)
            self.values.update(zip(names, state, strict=True))
            state = self.block(loop.body)
        self.values.update(zip(loop.results, state, strict=True))

    def operation(self, step: Operation, operands: list) -> tuple:
        if step.name in _ARITHMETIC:
            return (_ARITHMETIC[step.name](*operands),)
        if step.name in _CASTS:
            return (operands[0].to(step.dtype),)
        if step.name in _SHAPES:
            value, function = operands[0], _SHAPES[step.name]
            if isinstance(value, Pointer):
                return (Pointer(value.memory, function(step, value.offset)),)
            return (function(step, value),)
        method = getattr(self, step.name.replace(".", "_"), None)
        if method is None:
            raise NotImplementedError(f"the evaluator of TTIR does not know {step.name}")
        return method(step, *operands)

    def arith_constant(self, step: Operation) -> tuple:
        text = re.sub(r"dense<(.*)>", r"\1", step.text)
        dtype = step.dtype if step.types else torch.bool
        if dtype == torch.bool:
            value = {"true": True, "false": False}[text]
        else:
            value = float(text) if dtype.is_floating_point else int(text)
        return (torch.full(step.shape, value, dtype=dtype),)

    def arith_cmpi(self, step: Operation, a: Tensor, b: Tensor) -> tuple:
        return (_COMPARISONS[step.text.split(",")[0]](a, b),)

    def arith_bitcast(self, step: Operation, value: Tensor) -> tuple:
        return (value.contiguous().view(step.dtype),)

    tt_bitcast = arith_bitcast

    def arith_extsi(self, step: Operation, value: Tensor) -> tuple:
        wide = value.to(step.dtype)
        return (-wide if value.dtype == torch.bool else wide,)  # the sign of one bit is the bit

    def tt_get_program_id(self, step: Operation) -> tuple:
        return (torch.tensor(self.place["xyz".index(step.text)], dtype=torch.int32),)

    def tt_make_range(self, step: Operation) -> tuple:
        return (torch.arange(step.number("start"), step.number("end"), dtype=torch.int32),)

    def tt_addptr(self, _step: Operation, at: Pointer, offset: Tensor) -> tuple:
        return (Pointer(at.memory, at.offset + offset),)

    def tt_dot(self, _step: Operation, a: Tensor, b: Tensor, c: Tensor) -> tuple:
        return ((c.double() + a.double() @ b.double()).to(c.dtype),)

    def tt_split(self, _step: Operation, value: Tensor) -> tuple:
        return value.unbind(-1)

    def tt_join(self, _step: Operation, a: Tensor, b: Tensor) -> tuple:
        return (torch.stack((a, b), -1),)

    def tt_load(self, _step: Operation, at: Pointer, mask=None, other=None) -> tuple:
        mask = torch.ones_like(at.offset, dtype=torch.bool) if mask is None else mask
        if other is None:
            other = at.memory.elements.new_zeros(())
        result = other.expand(at.offset.shape).clone()
        result[mask] = at.memory.read(at.offset[mask], self.number)
        return (result,)

    def tt_store(self, _step: Operation, at: Pointer, value: Tensor, mask=None) -> tuple:
        mask = torch.ones_like(at.offset, dtype=torch.bool) if mask is None else mask
        at.memory.write(at.offset[mask], value[mask], self.number)
        return ()

    def tt_return(self, _step: Operation) -> tuple:
        return ()


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _shift_without_sign(a: Tensor, b: Tensor) -> Tensor:
    bits = torch.iinfo(a.dtype).bits
    if bits > 32:
        raise NotImplementedError("arith.shrui of 64 bits")
    return ((a.long() & (2**bits - 1)) >> b.long()).to(a.dtype)


_COMPARISONS = {
    "eq": torch.eq, "ne": torch.ne, "slt": torch.lt, "sle": torch.le, "sgt": torch.gt,
    "sge": torch.ge,
}  # fmt: skip

_ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "arith.addi": torch.add, "arith.subi": torch.sub, "arith.muli": torch.mul,
    "arith.addf": torch.add, "arith.subf": torch.sub, "arith.mulf": torch.mul,
    "arith.divsi": _divide, "arith.remsi": torch.fmod,
    "arith.maxsi": torch.maximum, "arith.minsi": torch.minimum,
    "arith.andi": torch.bitwise_and, "arith.ori": torch.bitwise_or,
    "arith.shli": torch.bitwise_left_shift, "arith.shrsi": torch.bitwise_right_shift,
    "arith.shrui": _shift_without_sign, "arith.select": torch.where,
}  # fmt: skip

_CASTS = {"arith.trunci", "arith.truncf", "arith.extf", "arith.extui", "arith.sitofp"}


def _order(step: Operation) -> list[int]:
    return [int(axis) for axis in re.findall(r"\d+(?=[,>])", step.attributes)]


def _reshape(step: Operation, value: Tensor) -> Tensor:
    if "allow_reorder" in step.text:
        raise NotImplementedError("tt.reshape that may reorder")
    return value.reshape(step.shape)


_SHAPES: dict[str, Callable[[Operation, Tensor], Tensor]] = {
    "tt.splat": lambda step, value: value.expand(step.shape),
    "tt.broadcast": lambda step, value: value.expand(step.shape),
    "tt.expand_dims": lambda step, value: value.unsqueeze(step.number("axis")),
    "tt.reshape": _reshape,
    "tt.trans": lambda step, value: value.permute(_order(step)),
}
