"""Every case of bad input ends as the corpus says, and the page shows it."""

from __future__ import annotations

import pytest

from studies.corpus.cases import CASES
from studies.corpus.corpus import PAGE, outcomes, page

LEFT = {2: {"config.yaml", "log.txt"}}  # what a training writes before it reads its first image
LEFT[0] = LEFT[2] | {"metrics.json", "p.png"}


@pytest.fixture(scope="module")
def found() -> dict:
    return outcomes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_case(case, found) -> None:
    outcome = found[case.group, case.title]
    assert "Traceback" not in outcome.output, outcome.output
    assert outcome.status == case.status, outcome.output
    assert case.says in outcome.line, outcome.output
    assert not outcome.changed  # nothing is lost,
    assert outcome.left <= LEFT[case.status]  # and nothing is left half-written
    if case.status:
        assert outcome.output.count("error: ") == 1


def test_the_page_is_up_to_date(found) -> None:
    assert len(found) == len(CASES)
    assert PAGE.read_text(encoding="utf-8") == page(found), "run: python tools/corpus.py"
