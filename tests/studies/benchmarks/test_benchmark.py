"""The benchmark of layers and backbones: what it measures and writes, and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from lambda_det.layers import position_lambda
from lambda_det.layers.attention import KINDS
from studies.benchmarks.backbone_report import backbones_table
from studies.benchmarks.benchmark import main
from studies.benchmarks.layer_benchmark import Protocol, _compare
from studies.benchmarks.layer_forms import Candidate, Shape
from studies.benchmarks.layer_report import layers_table
from studies.benchmarks.rival_layers import rival_layers_table


@pytest.fixture
def tool():
    """A function that runs the command with arguments and returns its status."""
    return lambda *arguments: main([str(argument) for argument in arguments])


def test_quick_run_writes_a_record_and_a_figure(tool, tmp_path, capsys) -> None:
    record_file, figure = tmp_path / "o.json", tmp_path / "p.png"
    assert tool("layers", "--quick", "--output", record_file, "--plot", figure) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    record = json.loads(record_file.read_text())
    assert record["command"].startswith("python tools/benchmark.py layers --quick")
    rows = {row["form"]: row for row in record["rows"]}
    assert {"auto", "conv", "banded", "conv2d form", "LambdaLayer", "SE"} <= set(rows)
    assert "reference" not in rows and "triton" not in rows
    for row in rows.values():
        assert (row["stage"], row["height"], row["width"]) == ("res4", 4, 6)
        for what in ("forward", "train"):
            assert 0 < row[f"{what}_min_ms"] <= row[f"{what}_ms"] <= row[f"{what}_max_ms"]
        assert row["peak_mib"] is None
        if row["kind"] == "position":
            assert row["error"] < 1e-5 and row["gradient_error"] < 1e-5
    output = capsys.readouterr().out
    assert all(form in output and form in layers_table(record) for form in rows)


def test_layers_of_every_kind(tool, tmp_path, monkeypatch, capsys) -> None:
    record_file = tmp_path / "o.json"
    assert tool("layers", "--quick", "--rivals", "--output", record_file) == 0
    record = json.loads(record_file.read_text())
    rows = {row["form"]: row for row in record["rows"]}
    assert {*rows} == {*KINDS, "local_attention, 23×23", "3x3 convolution", "SE"}
    assert rows["3x3 convolution"]["parameters"] == 9 * 256**2
    assert rows["linear_attention"]["gmac"] == round(4 * 6 * 256 * (3 * 256 + 2 * 32) / 1e9, 3)
    assert all(row["saved_mib"] > 0 and row["train_ms"] > 0 for row in rows.values())
    assert all(f"| {form} " in rival_layers_table(record) for form in rows)
    # Caches of files can be given back, so that they are no memory that lacks.
    memory = SimpleNamespace(available=2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    capsys.readouterr()
    assert tool("layers", "--quick", "--rivals", "--forms", "local_attention, 23×23") == 0
    assert "does not fit: keeps 0.0 GiB, 0.0 GiB are free" in capsys.readouterr().out


def test_a_gradient_of_nan_is_no_error_that_is_small() -> None:
    def form(query, value, embedding):
        value = value.clone()
        value.register_hook(lambda gradient: gradient * float("nan"))
        return position_lambda(query, value, embedding, backend="conv")

    row: dict = {}
    candidate = Candidate("a form", "position", form, ())
    _compare([(candidate, row)], Shape("res4", 1, 64, 3, 4), Protocol())
    assert row["error"] < 1e-5 and row["gradient_error"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "tpu"], ["--device tpu", "cpu or cuda"]),
        (["--repetitions", "0"], ["--repetitions 0", "1 or more"]),
        (["--batch", "2", "0"], ["--batch 2 0", "1 or more"]),
        (["--quick", "--forms", "conv4d"], ["--forms conv4d", "none"]),
    ],
)
def test_wrong_arguments(tool, capsys, arguments, words) -> None:
    assert tool("layers", *arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(word in message for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a GPU")
def test_no_gpu(tool, capsys) -> None:
    assert tool("layers", "--device", "cuda") == 2
    assert "no GPU" in capsys.readouterr().err


def test_a_gpu_by_number_is_the_current_one(tool, monkeypatch, capsys) -> None:
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    for number in (1, 2):
        # A size that is refused later, so that nothing is measured.
        assert tool("backbones", "--size", 33, 33, "--device", f"cuda:{number}") == 2
    assert chosen == ["cuda:1"]
    assert "--device cuda:2: PyTorch finds 2 GPUs" in capsys.readouterr().err


def test_backbones_writes_a_record(tool, tmp_path) -> None:
    record_file, figure = tmp_path / "o.json", tmp_path / "p.png"
    arguments = ["--quick", "--depth", 26, "--models", "lambda", "lambda-conv2d"]
    files = ["--output", record_file, "--plot", figure]
    assert tool("backbones", *arguments, "--dtype", "bfloat16", "--channels-last", *files) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    record = json.loads(record_file.read_text())
    assert record["command"].startswith("python tools/benchmark.py backbones --quick --depth 26")
    assert [row["label"] for row in record["rows"]] == ["R-26", "λ-26", "λ-26, conv2d form"]
    for row in record["rows"]:
        assert (row["height"], row["width"], row["batch"]) == (64, 96, 1)
        for step in ("train", "inference"):
            assert 0 < row[f"{step}_q1_ms"] <= row[f"{step}_ms"] <= row[f"{step}_q3_ms"]
            assert row[f"{step}_runs"] >= 1 and row[f"{step}_peak_mib"] is None
        assert row["saved_mib"] > 0 and row["threads"] == torch.get_num_threads()
    assert all(row["label"] in backbones_table(record) for row in record["rows"])
