"""The benchmark of the back ends, small."""

from __future__ import annotations

import importlib.util

import pytest
from evaluation_helpers import judge

from lambda_det.errors import InputError
from studies.benchmarks.counting_benchmark import benchmark_counting, generate

INSTALLED = importlib.util.find_spec("faster_coco_eval") is not None


def test_generated_data_are_neither_trivial_nor_hopeless():
    content, entries = generate(12, 100, seed=1)
    assert len(entries) == 1200
    assert all(a["area"] > 0 for a in content["annotations"])
    for task in ("bbox", "segm"):
        stats = judge(content, entries, task)
        assert 0.05 < stats[0] < 0.9 and (stats > -1).all()
    assert generate(12, 100, seed=1) == (content, entries)


@pytest.mark.skipif(not INSTALLED, reason="faster-coco-eval is not installed")
def test_rows():
    rows = benchmark_counting(10, 20)
    assert [row["task"] for row in rows] == ["bbox", "segm", "bbox + segm"]
    for row in rows:
        assert row["detections"] == 200
        assert row["time_ratio"] > 0
        assert row["max_difference_points"] < 1e-6
    with pytest.raises(InputError, match="--images 0"):
        benchmark_counting(0, 10)
    with pytest.raises(InputError, match="--seed -1"):
        benchmark_counting(1, 1, seed=-1)
