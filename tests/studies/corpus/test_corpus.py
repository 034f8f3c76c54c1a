"""Every case of bad input ends as the corpus says, and the page shows it."""

from __future__ import annotations

import pytest

from studies.corpus.corpus import CASES, PAGE, outcomes, page


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict:
    return outcomes()


def test_there_are_enough_of_each_kind() -> None:
    assert len(CASES) >= 40 and len({case.name for case in CASES}) == len(CASES)
    assert {case.group for case in CASES} == {
        "images", "json", "detections", "configs", "weights", "paths",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case, found) -> None:
    outcome = found[case.name]
    assert not outcome.trace, outcome.trace
    assert outcome.status == case.status, outcome.output
    assert case.says in outcome.line, outcome.output
    assert "Traceback" not in outcome.output
    assert not outcome.changed  # nothing is lost,
    assert set(outcome.left) == case.left  # and nothing is left half-written
    if case.status:
        assert sum("error: " in line for line in outcome.output.splitlines()) == 1


def test_the_page_is_up_to_date(found) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(found), "run: python tools/corpus.py"
