"""The command that draws lambda layers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from lambda_det.configs import load_config
from studies.views.visualize_lambdas import main

CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
SMALL = "INPUT.MIN_SIZE_TEST 64 MODEL.LAMBDA_RESNET.LAYER.QUERY_DEPTH 2".split()


@pytest.fixture
def words(project: Path, tmp_path: Path) -> list[str]:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 99, np.uint8))
    files = ["--image", str(tmp_path / "a.png"), "--output", str(tmp_path / "out")]
    return ["--config-file", str(project / CONFIG), *files]


def test_figures_of_a_file_of_weights(words, project, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    saved = "studies.views.lambda_figures.save_figure"  # laying them out takes seconds
    monkeypatch.setattr(saved, lambda figure, path, flag: Path(path).touch())
    cfg = load_config(str(project / CONFIG), SMALL)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "w.pth")
    more = ["--weights", str(tmp_path / "w.pth"), "--channels", "1", "--layers", "res5.2"]
    assert main([*words, *more, *SMALL]) == 0
    assert (tmp_path / "out/figure.png").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "MODEL.WEIGHTS is empty"),
        (("--weights", "none.pth"), "none.pth"),
        (("MODEL.LAMBDA_RESNET.DEPTH", "many"), "DEPTH"),
    ],
)
def test_what_is_wrong_is_one_line(words, tmp_path, capsys, more, message):
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert not (tmp_path / "out").exists()
