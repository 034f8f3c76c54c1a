"""Addresses beyond 32 bits: of the kernels as they are compiled, the last program of a launch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lambda_det.layers import triton_launch
from lambda_det.layers.triton_lambda import plan_for
from studies.gpu.ahead_of_time import Call, compile_call
from studies.gpu.evaluate import Memory, MemoryFault, Pointer, Program
from studies.gpu.ttir import parse

pytest.importorskip("triton", reason="Triton is not installed")


class Places(Memory):
    """Knows which elements a tensor has, and holds none."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        self.size = 1 + sum((size - 1) * stride for size, stride in steps)
        self.name, self.last = name, -1
        self.elements = torch.empty(0, dtype=tensor.dtype)

    def read(self, places: Tensor, program: int) -> Tensor:
        self._see(places)
        return self.elements.new_zeros(places.shape)

    def write(self, places: Tensor, values: Tensor, program: int) -> None:
        self._see(places)

    def _see(self, places: Tensor) -> None:
        if places.numel():
            first, last = int(places.min()), int(places.max())
            if not 0 <= first <= last < self.size:
                raise MemoryFault(f"elements {first} to {last} of {self.name}: {self.size}")
            self.last = max(self.last, last)


def last_program(call: Call) -> dict[str, Places]:
    """Run the last program of a launch for its addresses alone."""
    function = parse(compile_call(call, 90).asm["ttir"])
    values: dict[str, object] = {}
    for name in function.arguments:
        value = call.arguments[name]
        if isinstance(value, Tensor):
            values[f"%{name}"] = Pointer(Places(name, value), torch.tensor(0))
        else:
            dtype = torch.int32 if abs(value) < 2**31 else torch.int64  # as Triton does
            values[f"%{name}"] = torch.tensor(value, dtype=dtype)
    place = tuple(size - 1 for size in call.grid)
    Program(0, place, values).block(function.body)
    memories = [value.memory for value in values.values() if isinstance(value, Pointer)]
    return {memory.name: memory for memory in memories}


@pytest.mark.parametrize(
    ("images", "heads", "channels", "side", "large"),
    [
        (140, 4, 64, 500, {"fused_forward": {"query", "value", "output"}}),
        # What the others address is a chunk, in which only many channels are that many elements.
        (
            8,
            1,
            1024,
            1024,
            {
                "gather_values": {"value", "output"},
                "value_gradient": {"output_gradient", "gradient"},
                "weight_gradient": {"output_gradient", "value"},
            },
        ),
    ],
)
def test_the_last_program_stays_within_tensors_of_more_than_2_to_the_31_elements(
    images: int, heads: int, channels: int, side: int, large: dict[str, set[str]]
) -> None:
    made: dict[str, Call] = {}

    def record(kernel, grid, arguments) -> None:
        made[kernel.__name__] = Call(kernel, grid, arguments)

    options = {"dtype": torch.bfloat16, "device": "meta"}
    query = torch.empty(images, side, side, heads, 16, **options).permute(0, 3, 4, 1, 2)
    value = torch.empty(images, side, side, 1, channels, **options).permute(0, 3, 4, 1, 2)
    embedding = torch.empty(16, 1, 1, 1, device="meta")
    plan = plan_for(query, value, embedding)
    output = triton_launch.forward(query, value, embedding, plan, record)
    triton_launch.backward(query, value, embedding, output.bfloat16(), plan, record)
    for kernel, names in large.items():
        memories = last_program(made[kernel]).values()
        assert {memory.name for memory in memories if memory.last >= 2**31} == names
