"""Rows of finished runs, and their controls in words."""

from __future__ import annotations

import json
import os

import pytest

from lambda_det import get_cfg
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS
from studies.record_run import controls_text, row_of_run


@pytest.fixture
def finished_run(tmp_path):
    run = tmp_path / "run"
    (run / "inference").mkdir(parents=True)
    (run / "config.yaml").write_text(get_cfg().dump())
    log = [  # of an earlier run into the same folder, then of this one
        {"iteration": 19, "time": 9.0},
        {"iteration": 0, "time": 2.0},
        {"iteration": 19, "time": 1.0},
        {"iteration": 20, "total_loss": 1},
    ]
    (run / "metrics.json").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    values = dict.fromkeys(METRICS, 50.0) | {"AP": 61.25, "APl": None}
    (run / "inference" / "metrics.json").write_text(json.dumps({"bbox": values}))
    return run


def test_row_names_units_and_keeps_undefined_numbers_undefined(finished_run):
    row = row_of_run(str(finished_run))
    assert row["box_ap"] == 61.25
    assert row["box_apl"] is None
    assert row["train_s_per_iteration"] == {"median": 1.5, "min": 1.0, "max": 2.0}
    assert not any(name.startswith("mask") for name in row)


def test_missing_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.yaml"):
        row_of_run(str(tmp_path))


def write_metrics(folder, box_ap):
    (folder / "inference").mkdir(parents=True)
    values = dict.fromkeys(METRICS, 40.0) | {"AP": box_ap}
    (folder / "inference" / "metrics.json").write_text(json.dumps({"bbox": values}))


def test_controls_stand_beside_ap(finished_run, tmp_path):
    write_metrics(finished_run / "zeroed_res4_res5", 3.125)
    without = tmp_path / "without"
    write_metrics(without, 58.5)
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(without)
    cfg.MODEL.LAMBDA_RESNET.IDLE_STAGES = ["res4", "res5"]
    (without / "config.yaml").write_text(cfg.dump())
    row = row_of_run(str(finished_run), without=str(without))
    assert (row["box_ap_zeroed"], row["box_ap_trained_without"]) == (3.12, 58.5)


@pytest.mark.parametrize(
    "changes", [{}, {"MODEL.LAMBDA_RESNET.IDLE_STAGES": "['res4','res5']", "SEED": "3"}]
)
def test_control_of_another_run_is_refused(finished_run, tmp_path, changes):
    write_metrics(tmp_path / "without", 58.5)
    cfg = get_cfg()
    cfg.merge_from_list([word for pair in changes.items() for word in pair])
    (tmp_path / "without" / "config.yaml").write_text(cfg.dump())
    with pytest.raises(InputError, match=r"is not the same run without.* is expected"):
        row_of_run(str(finished_run), without=str(tmp_path / "without"))


def test_older_zeroed_evaluation_is_refused(finished_run):
    zeroed = finished_run / "zeroed_res4_res5"
    zeroed.mkdir()
    assert "box_ap_zeroed" not in row_of_run(str(finished_run))  # one that failed
    write_metrics(zeroed, 3.0)
    os.utime(zeroed / "inference" / "metrics.json", (1, 1))
    with pytest.raises(InputError, match="is older than the evaluation of the whole network"):
        row_of_run(str(finished_run))


@pytest.mark.parametrize(
    ("zeroed", "words"),
    [(12.0, "branches are not idle"), (60.9, "branches are idle"), (70.0, "branches are idle")],
)
def test_controls_in_words(zeroed, words):
    row = {"box_ap": 61.0, "box_ap_zeroed": zeroed, "mask_ap": 55.0}
    text = controls_text(row, {"box_ap_trained_without": 58.25})
    assert f"box AP 61.0; with the branches of res4 and res5 zeroed box AP {zeroed}" in text
    assert words in text and "reached box AP 58.2" in text and "mask" not in text


def test_record_of_the_quickstart_holds_both_controls(project):
    """tools/quickstart.sh shows this text."""
    record = json.loads((project / "results" / "quickstart.json").read_text())
    (row,) = record["rows"]
    for task in ("box", "mask"):
        assert row[f"{task}_ap"] >= 60
        assert row[f"{task}_ap"] - row[f"{task}_ap_zeroed"] >= 10
        assert f"{task}_ap_trained_without" in row
    assert min(row["last_norm"].values()) > 0.3
