"""A training that a signal ended is taken up again by the next call."""

from __future__ import annotations

import json

import pytest

from lambda_det.comparison import execute, read_suite
from lambda_det.comparison.run_files import FAILED, FINISHED

pytestmark = pytest.mark.slow


def test_a_run_that_a_signal_ended_is_not_finished(content, write_suite, output, fake_command):
    """It ended with status 0, and its folder holds the metrics of an evaluation on the way."""
    content["seeds"] = [1]
    suite = read_suite(write_suite(content), str(output))
    (output / "stop").write_text("plain")
    states = execute(suite, str(output), command=fake_command)
    assert {run.model: state for run, state in states.items()} == {
        "plain": FAILED, "lambda": FINISHED,
    }  # fmt: skip
    failed = json.loads((output / "runs/plain/seed1/failed.json").read_text())
    assert failed["exit_status"] == 0
    assert failed["reason"] == "stopped by SIGTERM after iteration 12 of 20"
    (output / "stop").unlink()
    assert set(execute(suite, str(output), command=fake_command).values()) == {FINISHED}
    started = (output / "started.txt").read_text().splitlines()
    assert sorted(started) == ["lambda 1", "plain 1", "plain 1"]
