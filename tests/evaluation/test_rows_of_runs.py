"""Rows of finished runs and the table of their AP."""

from __future__ import annotations

import json

import pytest

from lambda_det import get_cfg
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import METRICS
from lambda_det.evaluation.records import ap_table, row_of_run
from lambda_det.records import make_record


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


def test_table_of_ap(finished_run):
    record = make_record("python x.py", [row_of_run(str(finished_run))], seeds=[7])
    table = ap_table(record)
    assert "| lambda-101 | box | 61.2 | 50.0 | 50.0 | 50.0 | 50.0 | – |" in table
    assert "`python x.py`" in table


def test_missing_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.yaml"):
        row_of_run(str(tmp_path))
