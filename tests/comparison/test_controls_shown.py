"""The controls of a comparison: what is said of them in tables, notes and the report."""

from __future__ import annotations

import pytest

from lambda_det.comparison import collect, comparison_tables, results_markdown
from lambda_det.comparison.controls import (
    IDLE,
    NO_BETTER,
    RESTS,
    UNKNOWN,
    controls_line,
    verdict_of,
)
from lambda_det.comparison.report import html_report
from lambda_det.comparison.suite import Suite

pytestmark = pytest.mark.slow


@pytest.fixture
def finished(read, train, content, output) -> tuple[Suite, dict, dict]:
    """Suite, states and record of two seeds with both controls."""
    del content["controls"]
    content |= {"seeds": [1, 2]}
    suite = read()
    states = train(suite, jobs=2)
    return suite, states, collect(suite, states, lambda cfg: {}, command="python x")


def test_tables_and_report_show_the_controls(finished):
    suite, states, record = finished
    head = "| box AP | zeroed | trained without | AP − trained without | Δ |"
    line = (
        "Residual branches of res4 and res5: the AP of R-50 does not rest on them (it is no worse "
        "with them zeroed); the AP of λ-50 rests on them."
    )
    for text in (results_markdown(record), comparison_tables(record)):
        assert head in text and f"\n\n{line}\n\n" in text
        assert "| λ-50 | 2/2 | 35.0 ± 1.4 | 15.0 ± 1.4 | 29.0 ± 1.4 | +6.0 [+6.0, +6.0] |" in text
        assert "Zeroed: the same weights" in text and "Trained without: the same recipe" in text
    page = html_report(suite, states, record)
    assert f"<p class=note>{line}</p>" in page and "<th>AP − trained without</th>" in page
    assert "trained without res4 and res5" in page  # in the table of runs
    cards = page[page.index("<div class=cards>") : page.index("<h2>")]
    assert "says nothing" not in cards
    assert page.count("λ-50</text>") == html_report(
        suite, {r: s for r, s in states.items() if not r.without}, record
    ).count("λ-50</text>")


def test_a_gain_that_says_nothing_is_not_shouted(finished):
    suite, states, record = finished
    row = record["rows"][1]
    row["box_ap_gain"] = {"mean": 3.5, "low": 3.0, "high": 4.0, "values": [3, 4]}
    cards = html_report(suite, states, record)
    assert "<div class=big><span class=more><b>+3.5</b>" in cards
    row["box_ap_over_trained_without"]["low"] = -0.1
    page = html_report(suite, states, record)
    assert "<div class=big><span class=even><b>+3.5</b>" in page
    assert "<b>says nothing of the backbones</b></small>" in page
    assert "So this comparison says nothing of the backbones." in results_markdown(record)
    del row["box_ap_over_trained_without"]
    assert "<b>not known whether it rests on res4 and res5</b></small>" in html_report(
        suite, states, record
    )


def difference(mean: float, low: float | None = None, *values: float) -> dict:
    return {"mean": mean, "low": low, "high": None, "values": list(values) or [mean]}


@pytest.mark.parametrize(
    ("zeroed", "without", "expected"),
    [
        (difference(30), difference(2, 0.1), RESTS),
        (None, difference(2, 0.1), RESTS),
        (difference(30), difference(2, 0.0), NO_BETTER),
        (difference(30), difference(2, -0.1), NO_BETTER),
        (difference(30), difference(-2, -3), NO_BETTER),
        (difference(30), difference(2), UNKNOWN),
        (difference(30), difference(0), NO_BETTER),
        (difference(30), None, UNKNOWN),
        (None, None, UNKNOWN),
        (difference(0.4), None, IDLE),
        (difference(-3), difference(2, 0.1), IDLE),
        (difference(0.41), None, UNKNOWN),
        (difference(0.0, -9, -9.0, 9.0), None, UNKNOWN),  # one seed lacks its branches
    ],
)
def test_verdict(zeroed, without, expected):
    over = {"box_ap_over_zeroed": zeroed, "box_ap_over_trained_without": without}
    row = {"controls": ["zeroed"], "box_ap": {"mean": 40}, **over}
    assert verdict_of(row, "box") == expected


def test_tasks_that_differ_are_named():
    row = {
        "label": "λ-50", "controls": ["zeroed"], "box_ap": {"mean": 40}, "mask_ap": {"mean": 40},
        "box_ap_over_zeroed": difference(0), "mask_ap_over_zeroed": difference(30),
    }  # fmt: skip
    line = controls_line([row])
    assert "the AP of λ-50 (box) does not rest" in line and "of λ-50 (mask) rests" in line
    assert "(worse when zeroed proves nothing, and none was trained without them)" in line
    assert "says nothing of" not in line
    assert controls_line([row | {"controls": []}]) == controls_line([]) == ""
