"""Counts of a pass on a GPU, and the times that a model makes of them."""

from __future__ import annotations

import json

import pytest
import torch

from studies.gpu import estimate
from studies.gpu.ahead_of_time import Shape
from studies.gpu.counts import Counts, count, count_passes
from studies.gpu.estimate import GPUS, Gpu, estimated_s, main, roofline_s
from studies.gpu.estimate_table import estimates_table
from studies.gpu.ttir import parse

SMALL = Shape("res5", 1, 8, 16, 64)

LOOP = """
module {
  tt.func public @kernel(%source: !tt.ptr<bf16>, %many: i32) attributes {noinline = false} {
    %zero = arith.constant 0 : i32
    %one = arith.constant 1 : i32
    %sum = arith.constant dense<0.000000e+00> : tensor<16x32xf32>
    %n = tt.get_program_id x : i32
    %last = arith.addi %many, %n : i32
    %at = tt.splat %source : !tt.ptr<bf16> -> tensor<16x16x!tt.ptr<bf16>>
    %other = tt.splat %source : !tt.ptr<bf16> -> tensor<16x32x!tt.ptr<bf16>>
    %c = scf.for %i = %zero to %last step %one iter_args(%a = %sum) -> (tensor<16x32xf32>) : i32 {
      %x = tt.load %at : tensor<16x16x!tt.ptr<bf16>>
      %y = tt.load %other : tensor<16x32x!tt.ptr<bf16>>
      %b = tt.dot %x, %y, %a : tensor<16x16xbf16> * tensor<16x32xbf16> -> tensor<16x32xf32>
      scf.yield %b : tensor<16x32xf32>
    }
    tt.return
  }
}
"""


def test_products_and_loads_of_a_loop() -> None:
    found = count(parse(LOOP), (3,), {"source": torch.empty(0, device="meta"), "many": 2})
    iterations = 2 + 3 + 4
    assert found.flops == iterations * 2 * 16 * 16 * 32
    assert found.loaded_bytes == iterations * 2 * (16 * 16 + 16 * 32)
    assert count(parse(LOOP), (1,), {"source": torch.empty(0), "many": 0}).flops == 0


def test_counts_of_the_passes() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    passes = count_passes(SMALL, torch.bfloat16, 90)
    fused = passes["forward"][-1]
    # Two tiles of four rows, each meets the eight rows of values and, for its delayed rows, three
    # more steps; a step has two products of 128 x 32 by 32 x 64, and q·E in 8 x 32 x 16 by 16 x 32.
    assert fused.name == "fused_forward"
    assert fused.flops == 2 * 11 * 2 * (2 * 128 * 32 * 64 + 8 * 32 * 16 * 32)
    queries, half = 8 * 16 * 4, 2
    value, table = 8 * 16 * 64 * half, 26 * 40 * 16 * half
    assert fused.memory_bytes == queries * 16 * half + value + table + queries * 64 * 4
    names = [work.name for work in passes["backward"]]
    assert names.count("bmm") == 3
    assert [work.name for work in passes["forward"]] == ["new_zeros", "copy_", "fused_forward"]
    order = [name for name in names if name == "bmm" or name.endswith("_gradient")]
    assert order == ["bmm", "value_gradient", "weight_gradient", "bmm", "bmm"]


def test_a_launch_takes_as_long_as_the_slowest_of_three() -> None:
    gpu = Gpu("a", 80, flops=10.0, memory_bytes=20.0, cache_bytes=5.0)
    by_products, by_loads = Counts("a", flops=100, loaded_bytes=5), Counts("b", 10, 100, 100)
    by_memory = Counts("c", memory_bytes=60)
    assert estimated_s([by_products, by_loads, by_memory], gpu) == 10 + 20 + 3


def test_the_roofline_by_hand() -> None:
    shape = Shape("a", 2, 5, 7, 8, heads=4, depth=16, sets=1, scope=3)
    queries = 2 * 5 * 7 * 4
    slow = Gpu("slow products", 80, flops=1.0, memory_bytes=1e30)
    pairs = 2 * 4 * (5 + 4 + 4) * (7 + 6 + 6)  # of a query and a value, by rows and columns
    assert roofline_s(shape, "forward", slow) == 2 * pairs * (16 + 8)
    assert roofline_s(shape, "backward", slow) == 2 * pairs * (3 * 16 + 2 * 8)
    memory = Gpu("slow memory", 80, flops=1e30, memory_bytes=1.0)
    inputs = queries * 16 * 2 + queries // 4 * 8 * 2 + 16 * 9 * 4
    assert roofline_s(shape, "forward", memory) == inputs + queries * 8 * 4
    assert roofline_s(shape, "backward", memory) == 2 * inputs + queries * 8 * 4


def test_the_command(tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(estimate, "SHAPES", [SMALL])
    monkeypatch.setattr(estimate, "results_folder", lambda: tmp_path)
    assert main(["--record"]) == 0
    record = json.loads((tmp_path / "gpu_estimates.json").read_text())
    rows = record["rows"]
    assert [row["gpu"] for row in rows[::2]] == [gpu.name for gpu in GPUS]
    assert all(row["estimated_us"] >= row["roofline_us"] > 0 for row in rows)
    table = estimates_table(record)
    assert "1×8×16" in table and "estimated and not measured" in table
    first = f"{rows[0]['estimated_us']:.0f} ({rows[0]['roofline_us']:.0f})"
    assert first in table and "H200, forward" in table
    launches = [row["launches"] for row in rows]
    assert launches[0] == 3 and launches[1] > 10 and launches == launches[:2] * len(GPUS)
    assert f"| 3 + {launches[1]} " in table and "A launch itself costs nothing" in table
