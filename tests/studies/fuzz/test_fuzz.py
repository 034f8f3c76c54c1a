"""The fuzzing finds what it should find, and nothing in the readers as they are."""

from __future__ import annotations

import json
import os
import random
import signal

import pycocotools.mask as mask_util
import pytest
import torch

from studies.fuzz import fuzz as fuzzing
from studies.fuzz import targets
from studies.fuzz.fuzz import fuzz, minimised, steps_of, totals
from studies.fuzz.mutations import changed, random_steps
from studies.fuzz.targets import TARGETS, Target, plain_runs

HANG_S = 600
"""Only what hangs takes so long, on however busy a machine."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "PATIENCE_S", HANG_S)


def test_nothing_is_found_in_some_hundred_cases() -> None:
    rows = fuzz(HANG_S, seed=3, cases=240)
    found = totals(rows)
    assert found["findings"] == 0, rows
    assert found["cases"] == 240 == found["accepted"] + found["refused"]
    assert min(row["accepted"] for row in rows) > 0 and min(row["refused"] for row in rows) > 0


def test_a_process_with_threads_can_be_fuzzed() -> None:
    """A copy of it has none of them."""
    torch.set_num_threads(2)
    torch.rand(1 << 20).sum()  # starts the threads
    assert totals(fuzz(HANG_S, seed=3, cases=240))["cases"] == 240


def test_a_case_is_decided_by_its_number() -> None:
    assert repr(steps_of(5, 17)) == repr(steps_of(5, 17)) != repr(steps_of(6, 17))


def test_steps_change_a_copy_and_survive_what_is_gone() -> None:
    value = {"a": [1, {"b": 2}], "c": "d"}
    before = json.dumps(value)
    steps = [("drop", ("a", 1), None), ("put", ("a", 1, "b"), 9), ("put", ("c",), "e")]
    assert changed(value, steps) == {"a": [1], "c": "e"} and json.dumps(value) == before
    rng = random.Random(0)
    different = sum(
        repr(changed(value, random_steps(value, rng))) != repr(value) for _ in range(99)
    )
    assert different > 60


@pytest.mark.parametrize("minutes", ["inf", "nan", "0", "-1"])
def test_a_run_has_an_end(capsys, minutes: str) -> None:
    assert fuzzing.main(["--minutes", minutes]) == 2
    assert "expected a finite number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(lambda: [][0], "IndexError"), (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL")],
    ids=["traceback", "crash"],
)
def test_an_error_is_found_and_cut_down(monkeypatch, spoil, error: str) -> None:
    def run(value, rng, folder) -> None:
        if value.get("a") == 5:
            spoil()

    target = Target({"a": 1, "b": 2, "c": 3}, run)
    monkeypatch.setattr(fuzzing, "TARGETS", {"one": target})
    steps = [("put", ("b",), 7), ("put", ("a",), 5), ("drop", ("c",), None)]
    monkeypatch.setattr(fuzzing, "random_steps", lambda *_: list(steps))
    (row,) = fuzz(HANG_S, seed=0, cases=2)
    (finding,) = row["findings"]
    assert error in finding["error"]
    assert finding["steps"] == [["put", ["a"], "5"]]
    assert minimised("one", steps, 0, 0) == [steps[1]]


def test_plain_runs_are_those_that_were_encoded() -> None:
    runs = [3, 0, 40, 7, 1, 9, 140]
    code = mask_util.frPyObjects({"size": [20, 10], "counts": runs}, 20, 10)
    assert plain_runs(code["counts"]) == runs


def test_a_broken_check_would_be_found(monkeypatch) -> None:
    """The fuzzing finds the fault if the check of RLE codes is removed."""
    monkeypatch.setattr(targets, "first_broken", lambda codes: None)
    monkeypatch.setattr(fuzzing, "TARGETS", {"rle": TARGETS["rle"]})
    assert totals(fuzz(HANG_S, seed=0, cases=400))["findings"] > 0
