"""Shares of a gradient are counted at the right pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from lambda_det.configs import load_config
from studies.evidence import looks
from studies.evidence.row_mates import scenes

CONFIG = Path(__file__).resolve().parents[3] / "studies/evidence/row_mates_detector.yaml"


@pytest.fixture(scope="module")
def scene():
    return next(scenes("val2017", "rows", count=1))


def test_shares_of_a_known_field(scene):
    """All of it on the own marker; half on the object and half on another's marker; spread out."""
    fields = torch.zeros(4, 128, 128, dtype=torch.float64)
    markers = scene.markers.tolist()
    fields[0, markers[0][1], markers[0][0]] = 3
    x0, y0, _, _ = scene.boxes[1].tolist()
    fields[1, y0, x0] = fields[1, markers[3][1], markers[3][0]] = 1
    fields[2:] = 1
    found = looks.shares(fields, scene)
    assert found[0] == pytest.approx((100, 0, 100))
    assert found[1] == pytest.approx((0, 50 / 3, 50))
    inside = sum(  # by hand: the pixels of a disc of radius 10 that lie in the image
        (x - markers[2][0]) ** 2 + (y - markers[2][1]) ** 2 <= 100
        for x in range(128)
        for y in range(128)
    )
    assert found[2][0] == pytest.approx(100 * inside / 128**2)
    assert 0 < found[2][2] < 100


def test_the_gradient_is_that_of_the_class(scene):
    """Against a difference quotient in float64, at the pixel that matters most."""
    torch.manual_seed(0)
    cfg = load_config(str(CONFIG), ["MODEL.ROI_HEADS.NUM_CLASSES", "2"])
    model = build_model(cfg).eval().double()
    image, boxes = scene.image, scene.boxes
    with torch.autograd.set_detect_anomaly(False):
        fields = looks.decisive_pixels(model, image, boxes)
    assert fields.shape == (4, 128, 128)
    row, column = divmod(int(fields[1].argmax()), 128)

    def logit_difference(pixels):
        batch = model.preprocess_image([{"image": torch.as_tensor(pixels)}]).tensor
        features = model.backbone(batch)
        heads = model.roi_heads
        pooled = heads.box_pooler(
            [features[name] for name in heads.box_in_features],
            [looks.Boxes(torch.as_tensor(boxes, dtype=torch.float64))],
        )
        logits, _ = heads.box_predictor(heads.box_head(pooled))
        return float(logits[1, 0] - logits[1, 1])

    slopes = []
    pixels = image.transpose(2, 0, 1).astype("float64")
    with torch.no_grad():
        for colour in range(3):
            step = np.zeros_like(pixels)
            step[colour, row, column] = 1e-3
            change = logit_difference(pixels + step) - logit_difference(pixels - step)
            slopes.append(abs(change) / 2e-3 * cfg.MODEL.PIXEL_STD[colour])
    assert float(fields[1, row, column]) == pytest.approx(np.mean(slopes), rel=1e-3)


def test_runs_that_are_not_finished_or_are_controls_are_left_out(tmp_path, capsys):
    for name in ("seed1", "seed2", "seed1_without"):
        folder = tmp_path / "runs/relational/lambda" / name
        folder.mkdir(parents=True)
        if name != "seed2":
            (folder / "finished.json").touch()
    found = list(looks.runs_in(str(tmp_path)))
    assert found == [("lambda", 1, str(tmp_path / "runs/relational/lambda/seed1"))]
    assert looks.main([str(tmp_path / "nothing")]) == 2
    assert "has no finished run in runs/relational" in capsys.readouterr().err
