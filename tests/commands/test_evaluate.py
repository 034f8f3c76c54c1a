"""The command evaluate: what it prints, what it writes, and the line that a wrong input gets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lambda_det.commands import evaluate
from lambda_det.evaluation.metrics import METRICS

SQUARE = {"size": [30, 40], "counts": [126, 8, 1066]}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    entry = {"image_id": 1, "category_id": 1, "bbox": [4, 6, 1, 8], "segmentation": SQUARE}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}],
        "annotations": [entry | {"id": 1, "area": 8, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    paths = {name: str(tmp_path / f"{name}.json") for name in ("annotations", "predictions")}
    Path(paths["annotations"]).write_text(json.dumps(content))
    Path(paths["predictions"]).write_text(json.dumps([entry | {"score": 0.5}]))
    return paths


def arguments(files: dict[str, str], *more: str) -> list[str]:
    return ["--annotations", files["annotations"], "--predictions", files["predictions"], *more]


def test_table_and_json(files, tmp_path, capsys):
    output = tmp_path / "new" / "o.json"
    assert evaluate.main(arguments(files, "--output", str(output))) == 0
    assert capsys.readouterr().out.count("100.0") == 2 * 8
    written = json.loads(output.read_text())
    assert list(written) == ["bbox", "segm"]
    for values in written.values():
        assert tuple(values) == METRICS
        assert (values["AP"], values["ARs"]) == pytest.approx((100, 100))
        assert values["APm"] is None
    assert list(output.parent.iterdir()) == [output]


def test_per_class(files, tmp_path, capsys):
    output = tmp_path / "o.json"
    command = arguments(files, "--output", str(output), "--per-class", "--backend", "pycocotools")
    assert evaluate.main(command) == 0
    assert "two" in capsys.readouterr().out
    one, two = json.loads(output.read_text())["segm"]["per_class"]
    assert (one["id"], one["name"]) == (1, "one")
    assert one["AP"] == pytest.approx(100) and two["AP"] is None


def test_class_named_like_a_number(files, capsys):
    path = Path(files["annotations"])
    path.write_text(path.read_text().replace('"two"', '"1e3"').replace('"one"', '"007"'))
    assert evaluate.main(arguments(files, "--per-class")) == 0
    out = capsys.readouterr().out
    assert "1e3" in out and "007" in out


def test_json_is_written_where_the_table_cannot_be(files, tmp_path, monkeypatch):
    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(evaluate, "metrics_table", closed)
    output = tmp_path / "o.json"
    with pytest.raises(BrokenPipeError):
        evaluate.main(arguments(files, "--output", str(output)))
    assert set(json.loads(output.read_text())) == {"bbox", "segm"}


def test_table_is_printed_where_the_json_cannot_be(files, tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(evaluate, "write_json", full)
    assert evaluate.main(arguments(files, "--output", str(tmp_path / "o.json"))) == 2
    printed = capsys.readouterr()
    assert printed.out.count("100.0") == 2 * 8
    assert "o.json: cannot be written (Permission denied)" in printed.err


def test_a_class_name_sends_nothing_to_the_terminal(files, capsys):
    path = Path(files["annotations"])
    path.write_text(path.read_text().replace('"two"', '"\\u001b[2J"'))
    assert evaluate.main(arguments(files, "--per-class")) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"\x1b[2J" in out


@pytest.mark.parametrize("name", ["", "new/", ".", "x" * 300, "annotations.json/o.json"])
def test_output_that_cannot_be_written(files, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "evaluate_files", None)  # it is known before the evaluation
    assert evaluate.main(arguments(files, "--output", name)) == 2
    error = capsys.readouterr().err
    assert f"--output {name} cannot be written" in error and error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["annotations.json", "predictions.json"]


def test_output_to_a_pipe_is_refused(files, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert evaluate.main(arguments(files, "--output", str(tmp_path / "pipe"))) == 2
    assert "names no file" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ([], "--config-file, or --annotations and --predictions"),
        (["--annotations", "a.json"], "--config-file, or"),
        (["--config-file", "c.yaml", "--annotations", "a.json"], "cannot be combined"),
        (["--config-file", "gone.yaml"], "--config-file gone.yaml: no such file"),
        (["--annotations", "a.json", "--predictions", "p.json", "SEED", "1"], "'SEED'"),
        (["--annotations", "gone.json", "--predictions", "p.json"], "gone.json"),
    ],
)
def test_wrong_command(capsys, command, text):
    assert evaluate.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and error.count("\n") == 1


def test_wrong_values(files, tmp_path, capsys):
    assert evaluate.main(arguments(files, "--backend", "fast")) == 2
    assert "'fast'" in capsys.readouterr().err
    Path(files["predictions"]).write_text("[{")
    output = tmp_path / "o.json"
    assert evaluate.main(arguments(files, "--output", str(output))) == 2
    assert "not valid JSON" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    "words, line",
    [
        (["--zeroed", "res4"], "--zeroed res4 needs a model"),
        (["--weights", "w.pth"], "--weights w.pth needs a model"),
        (["--config-file", "x.yaml", "--zeroed", "res4,res6"], "--zeroed: unknown stage 'res6'"),
    ],
)
def test_what_needs_a_model(files, words, line, capsys):
    more = [] if "--config-file" in words else arguments(files)
    assert evaluate.main([*words, *more]) == 2
    assert line in capsys.readouterr().err
