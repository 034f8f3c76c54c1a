"""Spread and paired differences."""

from __future__ import annotations

import pytest

from lambda_det.comparison.statistics import paired_difference, spread


def test_spread():
    assert spread([2, None, 4]) == {"mean": 3, "sd": round(2**0.5, 3), "values": [2, 4]}
    assert spread([2]) == {"mean": 2, "sd": None, "values": [2]}
    assert spread([None]) is None and spread([]) is None


def test_difference_is_paired_by_seed():
    baseline = {1: 10, 2: 20, 3: 30, 4: None}
    found = paired_difference({3: 31, 2: 21, 1: 11, 4: 5, 5: 99}, baseline)
    assert found == {"mean": 1, "low": 1, "high": 1, "values": [1, 1, 1]}
    one = paired_difference({1: 11}, baseline)
    assert one == {"mean": 1, "low": None, "high": None, "values": [1]}
    assert paired_difference({9: 1}, baseline) is None
    wide = paired_difference({1: 11, 2: 23}, baseline)
    assert wide["high"] - wide["mean"] == pytest.approx(12.7062, abs=1e-3)
