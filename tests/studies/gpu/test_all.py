"""The script for a few minutes of a GPU, tried on the CPU at tiny sizes."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lambda_det.layers.autotune import CANDIDATES
from lambda_det.layers.lambda_first import conv
from lambda_det.layers.position_lambda import BACKENDS
from studies.benchmarks.backbone_report import backbones_table
from studies.benchmarks.layer_report import layers_table
from studies.gpu import all as script
from studies.gpu import steps
from studies.gpu.parts import PARTS, Setting, _said, correctness
from studies.gpu.steps import WATCHED, _Waits
from studies.tables import rows_table


def rows_of(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"gpu_{name}.json").read_text())["rows"]


def arguments(folder: Path, **changed: object) -> SimpleNamespace:
    given = {"device": "cpu", "tiny": True, "output": str(folder), "budget_s": 600}
    return SimpleNamespace(**given, parts=list(PARTS), **changed)


def test_every_part_writes_its_record(tmp_path: Path, project, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project)
    words = ["--device", "cpu", "--tiny", "--budget-s", "600", "--output", str(tmp_path)]
    assert script.main(words) == 0
    summary = rows_of(tmp_path, "all")
    assert [row["part"] for row in summary] == list(PARTS)
    assert {row["status"] for row in summary} == {"done"}
    assert capsys.readouterr().out.count(" | done | ") == len(PARTS)

    records = {name: json.loads((tmp_path / f"gpu_{name}.json").read_text()) for name in PARTS}
    for record in records.values():
        assert record["schema"] == 1 and rows_table(record)
        assert record["command"] == (
            "python -m studies.gpu.all --device cpu --budget-s 600 --tiny"
        )  # fmt: skip
    forms = {row["form"] for row in records["layers"]["rows"]}
    assert {"auto", "conv", "conv2d form", "LambdaLayer"} <= forms
    assert "λ-26, conv" in backbones_table(records["backbones"])
    assert "res5" in layers_table(records["layers"])
    checked = [row for row in records["correctness"]["rows"] if "note" not in row]
    assert len(checked) >= 12
    assert all(row["right"] and row["same_bits_twice"] for row in checked)
    assert all(row["choice"] in CANDIDATES["cpu"] for row in records["choices"]["rows"])
    assert [row["iterations"] for row in records["stability"]["rows"]] == [3, 3]
    for name in ("waits", "graphs"):
        assert records[name]["rows"] == [{"note": "needs a GPU"}]


def test_a_part_that_takes_too_long_is_stopped_and_one_that_fails_is_said(
    tmp_path: Path, project, monkeypatch
) -> None:
    monkeypatch.chdir(project)
    start = time.monotonic()
    assert script.run_part("stability", arguments(tmp_path), 0.2).startswith("stopped after 0 s")
    assert time.monotonic() - start < 10
    if not torch.cuda.is_available():
        args = arguments(tmp_path)
        args.device = "cuda"
        assert script.run_part("layers", args, 60) == "failed with exit status 2"


def test_what_has_no_time_left_is_left_out(tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(script, "run_part", lambda name, args, limit: asked.append(name) or "done")
    clock = iter(range(0, 10_000, 300))
    monkeypatch.setattr(script.time, "monotonic", lambda: float(next(clock)))
    rows = script.run_parts(arguments(tmp_path))
    assert asked == ["correctness"]  # at 300 of 600 s; the next one would begin at 900 s
    assert [row["status"] for row in rows[1:]] == ["left out: the time was up"] * (len(PARTS) - 1)
    assert rows_of(tmp_path, "all") == rows


@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_a_wrong_back_end_is_not_right(wrong: float, monkeypatch) -> None:
    monkeypatch.setitem(BACKENDS, "banded", lambda *tensors: wrong * conv(*tensors))
    rows = list(correctness(Setting("cpu", tiny=True, folder="")))
    for row in rows:
        if row["backend"] != "triton":
            assert row["right"] == (row["backend"] != "banded")


def test_a_graph_that_computes_nan_is_a_row_of_the_record(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "_captured", lambda device, backend: float("nan"))
    rows = list(steps.graph_rows("cuda", ["conv"]))
    assert rows == [{"backend": "conv", "captured": True, "largest_difference": None}]
    script.write_rows("gpu_graphs", rows, arguments(tmp_path))
    assert rows_of(tmp_path, "graphs") == rows


def test_the_choice_is_read_from_the_log() -> None:
    line = "position lambda: 'triton' for training qve, N 8 ('conv' 91.1 ms, 'triton' 3e-02 ms)"
    assert _said([line]) == {"choice": "triton", "conv_ms": 91.1, "triton_ms": 0.03}
    failed = "position lambda: back end 'triton' is not used, it fails (training)"
    alone = "position lambda: 'conv' for training qve (no other one is right)"
    assert _said([failed, alone]) == {"choice": "conv", "note": f"{failed} / {alone}"}


def test_the_lines_that_wait_are_counted(monkeypatch) -> None:
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = _Waits()
    for iteration in range(WATCHED.stop + 1):
        waits.trainer = SimpleNamespace(iter=iteration)
        waits.before_step()
        if iteration in WATCHED:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("does not detect all synchronizing operations", stacklevel=1)
        waits.after_step()
    (place,) = waits.places
    assert place.startswith("tests/studies/gpu/test_all.py:")
    assert waits.places[place] == len(WATCHED)
    assert modes == ["warn", "default"] * len(WATCHED)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (["--device", "cpu", "--budget-s", "3"], "--budget-s 3: expected 15 or more"),
    ],
)
def test_wrong_arguments(words: list[str], line: str, capsys) -> None:
    assert script.main(words) == 2
    assert line in capsys.readouterr().err
