"""The command predict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lambda_det.commands import predict, split_overrides

CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


def test_pairs_may_stand_anywhere_behind_a_flag():
    ends = ["--output", "o"]
    for words in (
        ["--input", "a", "b", *ends, "MODEL.DEVICE", "cpu"],
        ["--input", "a", "b", "MODEL.DEVICE", "cpu", *ends],
    ):
        args = predict.parse_arguments(["--config-file", "c", *words])
        assert args.input == ["a", "b"] and args.opts == ["MODEL.DEVICE", "cpu"]


def test_a_file_in_capitals_stays_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("IMG.JPG").write_bytes(b"")
    assert split_overrides(["a", "IMG.JPG"], []) == (["a", "IMG.JPG"], [])
    globs = ["DSC1*.JPG", "DSC2*.JPG", "MISSING.PNG"]
    assert split_overrides([*globs, "SOLVER.BASE_LR", "1"], []) == (
        globs,
        ["SOLVER.BASE_LR", "1"],
    )


def run(project: Path, tmp_path: Path, *words: str) -> int:
    files = ["--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    return predict.main(["--config-file", str(project / CONFIG), *files, *words])


def test_no_weights_is_one_line(project, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert run(project, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: MODEL.WEIGHTS is empty") and error.count("\n") == 1


def test_no_gpu_is_one_line(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "a.png").write_bytes(b"")
    assert run(project, tmp_path, "--weights", "w.pth", "--device", "cuda") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_status_and_summary(project, tmp_path, capsys, monkeypatch):
    from lambda_det.predict.files import Predicted

    asked = {}
    done = Predicted(images=[{"id": 1}], num_objects=3)

    def predict_files(cfg, named, output, **options):
        asked.update(options, weights=cfg.MODEL.WEIGHTS, device=cfg.MODEL.DEVICE)
        return done

    monkeypatch.setattr("lambda_det.predict.predict_files", predict_files)
    words = ["--weights", "w.pth", "--batch", "2", "--no-pictures", "--device", "cpu"]
    assert run(project, tmp_path, *words) == 0
    assert "1 images, 0 videos, 3 objects" in capsys.readouterr().out
    assert (asked["weights"], asked["device"], asked["batch_size"]) == ("w.pth", "cpu", 2)
    assert asked["draw"] is False and asked["score_threshold"] == 0.5
    done.failed["x.png"] = "image x.png cannot be read"
    assert run(project, tmp_path, "--json") == 2
    assert json.loads(capsys.readouterr().out)["failed"] == done.failed
