"""The benchmark of the intake reads the same json with both readers."""

from __future__ import annotations

import pytest

from studies.benchmarks import intake_benchmark


@pytest.mark.slow
def test_rows():
    rows = intake_benchmark.benchmark(200, 1)
    assert [row["reader"] for row in rows] == ["detectron2", "lambda_det"]
    assert rows[0]["time_ratio"] == 1
    assert rows[1]["annotations"] == 2000 and rows[1]["cpu_s"] > 0


def test_wrong_number(capsys):
    assert intake_benchmark.main(["--images", "0"]) == 2
    assert "--images 0: at least 1 is needed" in capsys.readouterr().err
