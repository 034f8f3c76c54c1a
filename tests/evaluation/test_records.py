"""Records of runs and the tables made from them."""

from __future__ import annotations

import json

import pytest

from lambda_det import get_cfg
from lambda_det.errors import InputError
from lambda_det.evaluation.coco import METRICS
from lambda_det.evaluation.records import make_record, row_of_run, update_tables, write_record


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


def test_record_has_the_schema_and_fills_the_table(finished_run, tmp_path):
    record = make_record("python x.py", [row_of_run(str(finished_run))], seeds=[7])
    keys = {"schema", "command", "commit", "date", "hardware", "versions", "seeds", "rows"}
    assert set(record) == keys
    assert record["schema"] == 1 and record["seeds"] == [7] and record["versions"]["torch"]
    write_record(record, str(tmp_path / "results" / "a.json"))
    text = "before\n<!-- a.json -->\nold\n<!-- end -->\nafter\n"
    new = update_tables(text, str(tmp_path / "results"))
    assert "| lambda-101 | box | 61.2 | 50.0 | 50.0 | 50.0 | 50.0 | – |" in new
    assert "`python x.py`" in new and "old" not in new
    assert new.startswith("before\n") and new.endswith("after\n")
    assert update_tables(new, str(tmp_path / "results")) == new


def test_missing_run_or_record_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.yaml"):
        row_of_run(str(tmp_path))
    with pytest.raises(InputError, match=r"gone\.json"):
        update_tables("<!-- gone.json -->\n<!-- end -->", str(tmp_path))


def test_tables_of_the_readme_are_those_of_the_records(project):
    text = (project / "README.md").read_text(encoding="utf-8")
    assert "<!-- quickstart.json -->" in text
    assert update_tables(text, str(project / "results")) == text
