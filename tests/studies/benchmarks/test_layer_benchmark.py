"""The benchmark of layers: its forms are the same function, its numbers are what they say."""

from __future__ import annotations

import pytest
import torch

from lambda_det.layers import position_lambda
from studies.benchmarks import layer_benchmark, layer_forms, packed_form
from studies.benchmarks.layer_benchmark import Protocol, benchmark_layers, saved_bytes
from studies.benchmarks.layer_forms import Candidate, Shape, candidates, shapes_of_image
from studies.benchmarks.layer_report import (
    by_shape,
    fastest_peer,
    layers_table,
    ratios_table,
)
from studies.benchmarks.peaks import measured_peaks


def test_shapes_of_an_image() -> None:
    assert shapes_of_image(800, 1333, ["res3", "res5"], [1, 4]) == [
        Shape("res3", 1, 128, 100, 167),
        Shape("res3", 4, 128, 100, 167),
        Shape("res5", 1, 512, 25, 42),
        Shape("res5", 4, 512, 25, 42),
    ]


FORMS = layer_forms.PEER_FORMS | layer_forms.OWN_FORMS


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("u", "columns", "side"), [(1, 7, 5), (3, 7, 5), (2, 8, 19), (1, 21, 3)])
def test_the_forms_are_the_same_function(name: str, u: int, columns: int, side: int) -> None:
    generator = torch.Generator().manual_seed(u)
    shapes = (2, 3, 4, 5, columns), (2, u, 6, 5, columns), (4, u, 3, side)
    inputs = [
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes
    ]
    expected = position_lambda(*inputs, backend="reference")
    found = FORMS[name](*inputs)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    gradients = (torch.autograd.grad(output, inputs, weight) for output in (found, expected))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("width", [8, 16])
def test_the_packed_convolution_takes_the_values_as_they_are(width: int, monkeypatch) -> None:
    """Columns as channels are the same memory, which is already in the order of tensor cores."""
    seen = []

    def conv2d(values, kernel, **options):
        seen.append((values, kernel))
        return torch.conv2d(values, kernel, **options)

    monkeypatch.setattr(packed_form.F, "conv2d", conv2d)
    value = torch.randn(1, 1, 6, 5, 32)
    packed_form.packed(torch.randn(1, 3, 4, 5, 32), value, torch.randn(4, 1, 3, 23), width=width)
    ((values, kernel),) = seen
    assert values.shape == (6, width, 5, 32 // width)
    for tensor in (values, kernel):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert values.data_ptr() == value.data_ptr()
    blocks = -(-11 // width)
    assert kernel.shape == (4 * width, width, 3, 2 * blocks + 1)


def test_kept_memory() -> None:
    shape = Shape("res4", 2, 64, 5, 9)
    found = {c.name: saved_bytes(c) for c in candidates(shape, "cpu", torch.float32, 0)}
    positions = 2 * 5 * 9
    query, value, lambdas = 4 * 64 * positions, 4 * 16 * positions, 4 * 16 * 16 * positions
    assert found["banded"] == found["native"] == query + value
    assert found["conv2d form"] >= query + lambdas
    assert found["3x3 convolution"] == 4 * 64 * positions


def test_a_form_that_fails_is_a_note(monkeypatch) -> None:
    def fails(*_inputs):
        raise RuntimeError("does not fit\nat all")

    monkeypatch.setattr(layer_benchmark, "candidates", lambda *_: iter([
        Candidate("broken", "position", fails, [torch.ones(1, requires_grad=True)]),
    ]))  # fmt: skip
    (row,) = benchmark_layers([Shape("res4", 1, 64, 2, 2)], Protocol(rounds=1, repetitions=1))
    assert row["note"] == "does not fit" and "train_ms" not in row


def test_forms_take_turns_and_the_best_round_counts(monkeypatch) -> None:
    order, clock = [], iter([1.0, 1, 1, 1, 8, 8, 9, 9, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7])

    def milliseconds(candidate, _call, _times) -> float:
        order.append(candidate.name)
        return next(clock)

    monkeypatch.setattr(layer_benchmark, "_milliseconds", milliseconds)
    chosen = [
        (Candidate(name, "position", torch.mul, [torch.ones(2, requires_grad=True)] * 2), {})
        for name in "ab"
    ]
    layer_benchmark._time(chosen, Protocol(rounds=2, repetitions=2))
    assert "".join(order[4:]) == "aabb" * 4
    # Round 1: (8, 2) and (8, 2) for a, (9, 3) for b; round 2: (4, 6) for a, (5, 7) for b.
    assert [row["forward_ms"] for _, row in chosen] == [5, 6]
    assert [row["train_min_ms"] for _, row in chosen] == [2, 3]
    assert [row["train_max_ms"] for _, row in chosen] == [8, 9]


def test_ratio_is_to_the_fastest_published_form() -> None:
    base = {"stage": "res4", "batch": 1, "height": 2, "width": 2, "device": "cpu", "dtype": "x"}
    rows = [
        base | {"form": form, "kind": "position", "train_ms": ms}
        for form, ms in (("conv2d form", 6.0), ("conv3d form", 7.0), ("row-unfold form", 3.0))
    ]
    assert by_shape(rows) == [rows]
    assert fastest_peer(rows) == 6.0
    assert fastest_peer(rows[2:]) is None


def test_useful_operations_are_those_of_the_sum() -> None:
    """Counted by loops over an image that the window exceeds on each side."""
    shape = Shape("res4", 2, 64, 5, 14)
    pairs = sum(
        0 <= y + dy < 5 and 0 <= x + dx < 14
        for y in range(5)
        for x in range(14)
        for dy in range(-11, 12)
        for dx in range(-11, 12)
    )
    forward, backward = layer_benchmark.useful_operations(shape)
    assert forward == 2 * 2 * 4 * pairs * (16 + 16)
    assert backward == 2 * 2 * 4 * pairs * (3 * 16 + 2 * 16)


def test_shares_of_the_peaks(monkeypatch) -> None:
    """The table puts the useful operations by time beside the higher rates of before and after."""
    rates = iter([{"sgemm_gflops": 10.0}, {"sgemm_gflops": 20.0}])
    monkeypatch.setattr(layer_benchmark, "measured_peaks", lambda: next(rates))
    forms = ("banded", "3x3 convolution")
    protocol = Protocol(rounds=1, repetitions=1, forms=forms, errors=False)
    shape = Shape("res4", 1, 64, 5, 9)
    banded, convolution = benchmark_layers([shape], protocol)
    assert banded["sgemm_gflops"] == 20 and "sgemm_gflops" not in convolution
    forward, backward = layer_benchmark.useful_operations(shape)
    assert banded["forward_gflops"] == pytest.approx(forward / banded["forward_ms"] / 1e6, abs=0.06)
    seconds = (banded["train_ms"] - banded["forward_ms"]) / 1000
    assert banded["backward_gflops"] == pytest.approx(backward / seconds / 1e9, abs=0.06)


def test_columns_of_ratios_and_shares() -> None:
    base = {"stage": "res4", "batch": 1, "channels": 8, "height": 2, "width": 2, "device": "cpu"}
    base |= {"dtype": "float32", "kind": "position", "saved_mib": 1, "peak_mib": None}
    base |= {"train_min_ms": 1, "train_max_ms": 9, "threads": 2}
    rates = {"sgemm_gflops": 100.0, "fma_gflops": 400.0}
    rows = [
        base | {"form": "auto", "forward_ms": 2.0, "train_ms": 4.0, **rates}
        | {"forward_gflops": 150.0, "backward_gflops": 80.0},
        base | {"form": "conv2d form", "forward_ms": 6.0, "train_ms": 40.0},
        base | {"form": "LambdaLayer", "kind": "layer", "forward_ms": 3.0, "train_ms": 9.0},
        base | {"form": "3x3 convolution", "kind": "yardstick"}
        | {"forward_ms": 4.0, "train_ms": 10.0},
    ]  # fmt: skip
    record = {
        "rows": rows,
        "command": "c",
        "hardware": {"gpu": None, "cpu": "x", "cores": 2},
        "date": "d",
    }
    row = next(line for line in layers_table(record).splitlines() if line.startswith("| auto"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[4:8] == ["3.00", "10.00", "150 (38)", "80 (20)"]
    row = next(line for line in ratios_table(record).splitlines() if line.startswith("| res4"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["3.00", "10.00", "0.75", "0.90"]


def test_measured_peaks() -> None:
    """Multiply-adds in registers are not slower than a matrix product, which has to load."""
    peaks = measured_peaks()
    assert peaks["sgemm_gflops"] > 0
    assert peaks.get("fma_gflops", float("inf")) > 0.8 * peaks["sgemm_gflops"]
