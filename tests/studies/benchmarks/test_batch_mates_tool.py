"""The command about batch mates: what it measures, writes and refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from lambda_det.configs import load_config
from studies.benchmarks.batch_mates import main

CONFIG = "configs/_base/mask_rcnn_fpn_cpu.yaml"
TINY = (
    "MODEL.LAMBDA_RESNET.DEPTH 26 MODEL.LAMBDA_RESNET.LAYER.SCOPE 5 MODEL.FPN.OUT_CHANNELS 16 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 TEST.DETECTIONS_PER_IMAGE 5"
).split()


@pytest.fixture
def tool(project):
    """A function that runs the command with arguments and returns its status."""

    def run(*arguments: object) -> int:
        return main([str(a) for a in ("--config-file", project / CONFIG, *arguments)])

    return run


@pytest.fixture
def folder(tmp_path):
    """A COCO folder of one image."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    (tmp_path / "coco" / "val2017").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "coco" / "val2017" / "1.jpg")
    (tmp_path / "coco" / "annotations").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(content))
    return tmp_path / "coco"


def test_the_mask_makes_the_difference(tool, folder, tmp_path) -> None:
    output = tmp_path / "o.json"
    common = "--coco", folder, "--images", 1, "--longest-side", 61, "--canvas", 96, 128
    variants = "--variants", "resnet", "lambda"
    assert tool(*common, *variants, "--output", output, *TINY) == 0
    record = json.loads(output.read_text())
    assert record["command"].startswith("python tools/batch_mates.py --config-file")
    rows = {(row["variant"], row["mask_padding"]): row for row in record["rows"]}
    assert len(rows) == 4 and rows["lambda", True]["canvas"] == "96 x 128"
    before, after = rows["lambda", False], rows["lambda", True]
    for name in ("res2", "res2_inner", "res5", "res5_inner", "se_gate", "content"):
        assert after[name] < 1e-5 < 5e-4 < before[name], name
    plain = [rows["resnet", mask] for mask in (False, True)]
    assert plain[0]["res2_inner"] < 1e-6 and plain[1]["res5"] < 1e-5 < 1e-3 < plain[0]["res5"]
    assert plain[0]["content"] is None
    assert "found" not in before


def test_with_weights_the_detections_are_compared(tool, project, folder, tmp_path) -> None:
    weights, output = tmp_path / "w.pth", tmp_path / "o.json"
    model = build_model(load_config(str(project / CONFIG), TINY))
    torch.save({"model": model.state_dict()}, weights)
    common = "--coco", folder, "--images", 1, "--longest-side", 61, "--canvas", 96, 128
    assert tool(*common, "--output", output, *TINY, "MODEL.WEIGHTS", weights) == 0
    for row in json.loads(output.read_text())["rows"]:
        assert row["weights"] == "w.pth" and row["found"] == 10
        assert 0 <= row["without_partner_percent"] <= 100


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--images", 2], "--images 2"),
        (["--images", 0], "--images 0"),
        (
            ["--images", 1, "--canvas", 32, 128],
            "--canvas 32 128: smaller than an image of 192 x 256",
        ),
        (["--images", 1, "--canvas", 0, 128], "--canvas"),
        (["--images", 1, "--variants", "plain"], "MODEL.LAMBDA_RESNET.VARIANT='plain'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(tool, folder, capsys, arguments, line) -> None:
    assert tool("--coco", folder, *arguments, *TINY) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and line in error
