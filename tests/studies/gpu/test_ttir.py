"""The kernels of the "triton" back end as they are compiled for a GPU, computed on a CPU."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lambda_det.layers import triton_launch
from lambda_det.layers.lambda_first import reference
from lambda_det.layers.triton_lambda import plan_for
from studies.gpu.ahead_of_time import Call, compile_call
from studies.gpu.evaluate import Evaluator, MemoryFault, Traffic, run
from studies.gpu.ttir import Loop, parse

pytest.importorskip("triton", reason="Triton is not installed")

# Rounding of operands and results; sums are taken in float32.
TOLERANCE = {torch.float32: 3e-7, torch.float16: 5e-4, torch.bfloat16: 4e-3}
WHOLE = 1 << 28
KERNELS = {"gather_values", "weight_gradient", "value_gradient"}
NAMES = ("output", "query", "value", "embedding")


def errors(
    shape: tuple[int, ...], dtype: torch.dtype, workspace: int, evaluator: Evaluator
) -> dict[str, float]:
    """Relative errors of the output, of the fused kernel's output if it can compute it, and of all
    gradients against float64.

    Args:
        shape: N, h, u, k, v, H, W, rh, rw.
        dtype: of query, value and the output's gradient.
        workspace: bytes of weights at one time.
        evaluator: what runs the kernels.
    """
    n, h, u, k, v, height, width, rh, rw = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(dtype)

    query, value = draw(n, h, k, height, width), draw(n, u, v, height, width)
    embedding, gradient = draw(k, u, rh, rw), draw(n, height, width, h, v)
    exact = [tensor.double().requires_grad_() for tensor in (query, value, embedding)]
    expected = reference(*exact)
    direction = gradient.double().permute(0, 3, 4, 1, 2)
    wanted = [expected.detach(), *torch.autograd.grad(expected, exact, direction)]

    inputs = (query, value, embedding.float())
    plan = dataclasses.replace(plan_for(*inputs), workspace=workspace)
    apart = dataclasses.replace(plan, fused=None)
    output = triton_launch.forward(*inputs, apart, evaluator)
    gradients = triton_launch.backward(*inputs, gradient, plan, evaluator)
    got = [*(tensor.permute(0, 3, 4, 1, 2) for tensor in (output, *gradients[:2])), gradients[2]]
    pairs = dict(zip(NAMES, zip(got, wanted, strict=True), strict=True))
    if plan.fused is not None:
        fused = triton_launch.forward(*inputs, plan, evaluator)
        pairs["fused output"] = fused.permute(0, 3, 4, 1, 2), wanted[0]
    return {name: float((a.double() - b).norm() / b.norm()) for name, (a, b) in pairs.items()}


def too_large(found: dict[str, float], dtype: torch.dtype) -> dict[str, float]:
    """The errors that are above the tolerance, NaN included, which max() would pass over."""
    return {name: error for name, error in found.items() if not error <= TOLERANCE[dtype]}


@pytest.fixture
def nan_in_fresh_memory():
    """What a kernel leaves out shows: torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("shape", "dtype", "workspace"),
    [
        pytest.param((1, 4, 1, 16, 64, 9, 11, 23, 23), torch.bfloat16, WHOLE, id="scope-23"),
        pytest.param((1, 4, 1, 16, 64, 18, 7, 23, 23), torch.float16, WHOLE, id="18-rows"),
        pytest.param((2, 4, 1, 32, 130, 5, 21, 3, 5), torch.bfloat16, WHOLE, id="depth-32"),
        pytest.param((1, 3, 2, 4, 17, 3, 9, 5, 5), torch.bfloat16, 20_000, id="u2-chunks-of-rows"),
        pytest.param((2, 9, 1, 2, 2, 2, 9, 3, 3), torch.bfloat16, WHOLE, id="two-groups-of-heads"),
        pytest.param((3, 2, 1, 4, 130, 3, 5, 7, 7), torch.float16, 40_000, id="chunks-of-images"),
        pytest.param((1, 2, 4, 3, 5, 3, 5, 3, 3), torch.float32, 1, id="u4-float32-a-row-a-time"),
        pytest.param((1, 1, 1, 2, 3, 2, 34, 3, 67), torch.bfloat16, WHOLE, id="wide-window"),
    ],
)
def test_values_of_what_is_compiled(nan_in_fresh_memory, shape, dtype, workspace) -> None:
    evaluator = Evaluator(90)
    found = errors(shape, dtype, workspace, evaluator)
    assert not too_large(found, dtype), found
    fused = {"fused_forward"} if "fused output" in found else set()
    assert {kernel for kernel, _ in evaluator.traffic} == KERNELS | fused
    assert bool(fused) == (shape[1] == 4 and dtype != torch.float32)


class WithoutLastTile(Evaluator):
    """Leaves out the programs of a launch of ``value_gradient`` that write the last tile."""

    def __call__(self, kernel, grid, arguments) -> None:
        if kernel.fn.__name__ == "value_gradient":
            grid = (grid[0] - 1, *grid[1:])
        super().__call__(kernel, grid, arguments)


def test_an_element_that_no_program_writes_is_found(nan_in_fresh_memory) -> None:
    found = errors((1, 2, 1, 2, 3, 3, 9, 3, 3), torch.float32, WHOLE, WithoutLastTile(90))
    assert list(too_large(found, torch.float32)) == ["value"], found


def test_weights_are_loaded_without_waste() -> None:
    evaluator = Evaluator(80)
    errors((1, 4, 1, 16, 64, 12, 10, 23, 23), torch.bfloat16, WHOLE, evaluator)
    for kernel in ("gather_values", "value_gradient"):
        traffic = evaluator.traffic[kernel, "weights"]
        # value_gradient loads 16-byte pieces of rows that begin in the middle of a sector.
        assert traffic.moved <= 1.25 * traffic.asked, (kernel, traffic)


def test_finds_values_that_the_compiler_does_not_carry() -> None:
    import delayed_kernel

    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, str(Path(delayed_kernel.__file__))]
    interpreted = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert interpreted.stdout == "right\n", interpreted.stderr[-2000:]

    given, right = delayed_kernel.arguments()
    call = Call(delayed_kernel.delayed, (1,), given)
    function = parse(compile_call(call, 90).asm["ttir"])
    (loop,) = [step for step in function.body if isinstance(step, Loop)]
    run(function, (1,), given)
    # A later Triton may be right; then so is the evaluator.
    assert torch.equal(given["target"], right) == (len(loop.carried) == 3)


HEAD = """
module {
  tt.func public @kernel(%target: !tt.ptr<f32>, %last: i32) attributes {noinline = false} {
    %lane = tt.make_range {end = 4 : i32, start = 0 : i32} : tensor<4xi32>
    %some = tt.splat %last : i32 -> tensor<4xi32>
    %mask = arith.cmpi slt, %lane, %some : tensor<4xi32>
    %base = tt.splat %target : !tt.ptr<f32> -> tensor<4x!tt.ptr<f32>>
    %at = tt.addptr %base, %lane : tensor<4x!tt.ptr<f32>>, tensor<4xi32>
    %one = arith.constant dense<1.000000e+00> : tensor<4xf32>
"""
TAIL = """
    tt.return
  }
}
"""
STORE = "tt.store %at, %one, %mask : tensor<4x!tt.ptr<f32>>"
LOAD = "%x = tt.load %at, %mask, %one : tensor<4x!tt.ptr<f32>>"
ONE_PLACE = "tt.store %base, %one, %mask : tensor<4x!tt.ptr<f32>>"
# Program p has p in %mine, p + 1 in %next, and 2 - 2 p in %back.
MOVED = """
    %p = tt.get_program_id x : i32
    %ps = tt.splat %p : i32 -> tensor<4xi32>
    %mine = tt.addptr %at, %ps : tensor<4x!tt.ptr<f32>>, tensor<4xi32>
    %c1 = arith.constant dense<1> : tensor<4xi32>
    %next = tt.addptr %mine, %c1 : tensor<4x!tt.ptr<f32>>, tensor<4xi32>
    %c2 = arith.constant dense<2> : tensor<4xi32>
    %twice = arith.muli %ps, %c2 : tensor<4xi32>
    %rest = arith.subi %c2, %twice : tensor<4xi32>
    %back = tt.addptr %at, %rest : tensor<4x!tt.ptr<f32>>, tensor<4xi32>
"""


def run_lines(lines: str, *, last: int = 3, programs: int = 1) -> tuple[Tensor, Traffic]:
    """Run lines on a target of five zeros; of the four lanes, ``last`` are under a true mask."""
    target = torch.zeros(5)
    traffic = run(parse(HEAD + lines + TAIL), (programs,), {"target": target[:3], "last": last})
    return target, traffic["target"]


def test_memory_faults() -> None:
    assert run_lines(STORE)[0].tolist() == [1, 1, 1, 0, 0]
    assert run_lines(LOAD)[1] == Traffic(asked=12, moved=32)
    with pytest.raises(MemoryFault, match="writes elements 0 to 3 of target, which has 3"):
        run_lines(STORE, last=4)
    with pytest.raises(MemoryFault, match="reads elements 0 to 3 of target, which has 3"):
        run_lines(LOAD, last=4)
    with pytest.raises(MemoryFault, match="target is written twice"):
        run_lines(ONE_PLACE)
    with pytest.raises(MemoryFault, match="target is written twice"):
        run_lines(STORE, programs=2)
    with pytest.raises(MemoryFault, match="target is written twice"):
        run_lines(f"{STORE}\n{STORE}")
    assert run_lines(f"{LOAD}\n{STORE}")[0].tolist() == [1, 1, 1, 0, 0]  # its own: x += 1
    after, before = "writes target where another one reads", "reads target where another one writes"
    for read, written, fault in (
        ("%next", "%mine", after),
        ("%mine", "%next", before),
        ("%at", "%back", after),  # the writer has read there, too
    ):
        lines = f"{MOVED}{LOAD.replace('%at', read)}\n{STORE.replace('%at', written)}"
        run_lines(lines, last=1)
        with pytest.raises(MemoryFault, match=fault):
            run_lines(lines, last=1, programs=2)


def test_an_unknown_operation_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"does not know math\.exp"):
        run_lines("%x = math.exp %one : tensor<4xf32>")
    with pytest.raises(NotImplementedError, match="TTIR: what is this"):
        run_lines("what is this")
