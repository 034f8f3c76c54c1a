"""What the compiler makes of the kernels, for GPUs that are not there."""

from __future__ import annotations

import json

import pytest
import torch

from studies.gpu import compiled
from studies.gpu.ahead_of_time import SHAPES, Shape, calls, compile_call
from studies.gpu.compiled import Facts, facts, faults, main
from studies.gpu.kernel_table import kernels_table

pytest.importorskip("triton", reason="Triton is not installed")

PRODUCTS = {80: "mma.sync", 86: "mma.sync", 89: "mma.sync", 90: "wgmma.mma_async"}
RES4, RES5 = SHAPES[2], SHAPES[3]
GLOBAL = Shape("global", 1, 32, 32, 128, heads=8, scope=63)


@pytest.mark.parametrize(
    ("architecture", "dtype", "shape"),
    [
        (80, torch.bfloat16, RES4),
        (86, torch.float16, RES5),
        (89, torch.bfloat16, RES5),
        (90, torch.bfloat16, RES4),
        (90, torch.float16, RES5),
        (100, torch.bfloat16, RES5),
        (89, torch.float16, GLOBAL),
        (80, torch.float32, RES4),
    ],
)
def test_kernels_are_as_they_should_be(architecture, dtype, shape) -> None:
    seen = set()
    for call in calls(shape, dtype):
        found = facts(compile_call(call, architecture))
        assert faults(found, architecture, dtype) == [], call.name
        if dtype.itemsize == 2:
            assert found.products == PRODUCTS.get(architecture, "tcgen05.mma")
        seen.add(call.name)
    fused = {"fused_forward"} if dtype.itemsize == 2 and shape.heads == 4 else set()
    assert seen == {"gather_values", "weight_gradient", "value_gradient"} | fused


def test_what_is_wrong_is_seen() -> None:
    call = next(call for call in calls(RES4, torch.bfloat16) if call.name == "gather_values")
    squeezed = facts(compile_call(call, 80, maxnreg=48))
    assert squeezed.registers <= 48 and squeezed.spilled_bytes > 0
    assert "spills" in "\n".join(faults(squeezed, 80, torch.bfloat16))

    odd = Shape("odd", 1, 5, 7, 63)  # rows of 126 bytes are not aligned
    call = next(call for call in calls(odd, torch.bfloat16) if call.name == "gather_values")
    found = facts(compile_call(call, 80))
    assert found.load_bytes == 2
    assert any("at a time" in line for line in faults(found, 80, torch.bfloat16))

    bad = Facts(4, 3, 255, 0, 200_000, "none", 16, 16)
    lines = faults(bad, 89, torch.float16)
    assert lines[0] == "needs 200000 bytes of shared memory, the GPU has 101376"
    assert lines[1:] == ["does not use tensor cores"]
    assert faults(bad, 90, torch.float32) == []


def test_the_driver_is_put_back() -> None:
    import triton

    before = triton.runtime.driver._active
    compile_call(calls(Shape("small", 1, 2, 3, 16), torch.float16)[0], 80)
    assert triton.runtime.driver._active is before


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(compiled, "SHAPES", [Shape("small", 1, 8, 8, 64)])
    monkeypatch.setattr(compiled, "results_folder", lambda: tmp_path)
    assert main(["--architectures", "80", "--dtypes", "bfloat16", "--record"]) == 0
    record = json.loads((tmp_path / "gpu_kernels.json").read_text())
    rows = record["rows"]
    names = ["fused_forward", "gather_values", "value_gradient", "weight_gradient"]
    assert [row["kernel"] for row in rows] == names
    assert all(row["shapes"] == ["1x8x8"] for row in rows)
    assert record["hardware"]["gpu"] is None and "triton" in record["versions"]
    table = kernels_table(record)
    first = f"{rows[0]['registers']}, {rows[0]['shared_bytes'] / 1024:.1f} KiB"
    assert f"| fused_forward   |  64 | bfloat16 | {first} |" in table
    assert "1×8×8" in table and "fused_forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--architectures", "75"], "--architectures 75: expected some of 80, 86, 89, 90, 100"),
        (["--dtypes", "int8"], "--dtypes int8: expected some of bfloat16, float16, float32"),
    ],
)
def test_wrong_values_are_named(words, line, capsys) -> None:
    assert main(words) == 2
    assert line in capsys.readouterr().err
