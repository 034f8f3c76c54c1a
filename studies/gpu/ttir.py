"""Reads Triton's intermediate representation (TTIR): what the compiler's front end makes of a
kernel, before anything depends on the GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch

_NAME = r"%[\w#]+"
_DTYPES = {
    "i1": torch.bool, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """A line of TTIR: ``results = name text {attributes} : types``; the text names the operands."""

    name: str
    results: list[str]
    operands: list[str]
    text: str
    attributes: str
    types: str

    @property
    def shape(self) -> list[int]:
        """The shape of the (first) result; empty for a number."""
        return [int(size) for size in re.findall(r"(\d+)x", self._type)]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the (first) result."""
        return _DTYPES[re.sub(r"(tensor<)?(\d+x)*(\w+)>?", r"\3", self._type)]

    @property
    def pointee(self) -> torch.dtype:
        """The dtype to which the pointers of a load or store point."""
        return _DTYPES[re.search(r"!tt\.ptr<(\w+)>", self.types)[1]]

    @property
    def _type(self) -> str:
        return re.split(r"->| to ", self.types)[-1].strip()

    def number(self, attribute: str) -> int:
        """The value of an attribute that is a number."""
        found = re.search(rf"\b{attribute} = (-?\d+)", self.attributes)
        if found is None:
            raise NotImplementedError(f"{self.name} without {attribute}")
        return int(found[1])


@dataclass(frozen=True)
class Loop:
    """``scf.for``: its results, index, bounds with the step, (name, start) of what it carries."""

    results: list[str]
    index: str
    bounds: list[str]
    carried: list[tuple[str, str]]
    body: list[Operation | Loop]


@dataclass(frozen=True)
class Function:
    """A kernel: the names of its arguments, and its body."""

    arguments: list[str]
    body: list[Operation | Loop]


def parse(ttir: str) -> Function:
    """Read a module of one function, as in ``asm["ttir"]`` of a compiled kernel.

    Raises:
        NotImplementedError: a line has a form that is not known here.
    """
    without_places = re.sub(r" loc\((?:[^()]|\([^()]*\))*\)", "", ttir)
    lines = [line.strip() for line in without_places.splitlines()]
    code = iter([line for line in lines if line and not line.startswith("#")])
    head = next(line for line in code if line.startswith("tt.func"))
    return Function(re.findall(r"%(\w+): ", head), _block(code))


def _block(code: Iterator[str]) -> list[Operation | Loop]:
    """Read up to the line that closes the block."""
    found: list[Operation | Loop] = []
    for line in code:
        if line == "}":
            return found
        found.append(_loop(line, code) if "scf.for" in line else _operation(line))
    raise NotImplementedError("TTIR: a block without an end")


def _loop(line: str, code: Iterator[str]) -> Loop:
    match = re.fullmatch(
        rf"(?:(%\w+)(?::(\d+))? = )?scf\.for ({_NAME}) = ({_NAME}) to ({_NAME}) step ({_NAME})"
        r"(?: iter_args\((.*?)\) -> .*)?.*\{",
        line,
    )
    if match is None:
        raise NotImplementedError(f"TTIR: {line}")
    name, number, index, *bounds, carried = match.groups()
    results = [f"{name}#{i}" for i in range(int(number))] if number else [name] if name else []
    pairs = re.findall(rf"({_NAME}) = ({_NAME})", carried or "")
    return Loop(results, index, bounds, pairs, _block(code))


def _operation(line: str) -> Operation:
    match = re.fullmatch(
        rf"(?:({_NAME}(?:, {_NAME})*) = )?([a-z_]+\.[a-z_]+)\s*([^{{:]*?)"
        r"\s*(\{.*\})?\s*(?:: (.*))?",
        line,
    )
    if match is None:
        raise NotImplementedError(f"TTIR: {line}")
    results, name, text, attributes, types = (group or "" for group in match.groups())
    operands = re.findall(_NAME, text)
    return Operation(name, re.findall(_NAME, results), operands, text, attributes, types)
