"""Tables of records, and those between markers."""

from __future__ import annotations

import pytest

from lambda_det.errors import InputError
from lambda_det.io import write_json
from lambda_det.records import make_record, provenance
from studies.tables import brief_table, rows_table, update_tables


def test_tables_are_made_between_their_markers(tmp_path) -> None:
    record = make_record("python x.py", [{"a_ms": 1}])
    write_json(record, str(tmp_path / "results" / "a.json"))
    text = "before\n<!-- a.json times -->\nold\n<!-- end -->\nafter\n"
    views = {"times": lambda r: f"{r['rows'][0]['a_ms']} ms\n{provenance(r)}"}
    new = update_tables(text, str(tmp_path / "results"), views)
    assert new.startswith("before\n<!-- a.json times -->\n1 ms\n`python x.py` (")
    assert new.endswith("\n<!-- end -->\nafter\n") and "old" not in new
    assert update_tables(new, str(tmp_path / "results"), views) == new


def test_a_bar_in_a_cell_stays_in_it() -> None:
    record = make_record("python x.py", [{"label": "a|b", "note|s": "two\nlines"}])
    header, _, row = rows_table(record).splitlines()[:3]
    assert header == r"| label | note\|s |" and row == r"| a\|b | two lines |"


def test_findings_are_counted_in_a_table() -> None:
    rows = [{"findings": []}, {"findings": [{"case": 3}, {"case": 4}]}]
    lines = rows_table(make_record("python x.py", rows)).splitlines()
    assert lines[2:4] == ["| 0 |", "| 2 |"]


def test_the_brief_table_of_a_comparison() -> None:
    def value(mean: float) -> dict:
        return {"mean": mean, "sd": 1.5, "low": mean - 1, "high": mean + 1, "values": [mean] * 2}

    row = {"set": "far", "set_label": "relational", "depth": 50, "finished": 2}
    plain = {"model": "plain", "label": "R-50", "over": None, "box_ap": value(31.5)}
    own = {"model": "own", "label": "λ-50", "over": "plain", "box_ap": value(35)}
    own |= {"box_ap_trained_without": value(29), "box_ap_gain": value(3.5)}
    record = make_record("python x.py", [row | plain, row | own]) | {"sets": {"far": "relational"}}
    text = brief_table(record)
    assert "| set | backbone | box AP | trained without | Δ |" in text
    assert "| relational | R-50 | 31.5 ± 1.5 | – |  |" in text
    assert "| relational | λ-50 | 35.0 ± 1.5 | 29.0 ± 1.5 | +3.5 [+2.5, +4.5] |" in text
    own_zeroed = row | own | {"box_ap_zeroed": value(12), "box_ap_over_trained_without": value(6)}
    both = brief_table(record | {"rows": [row | plain, own_zeroed]}, zeroed=True)
    assert "| box AP | zeroed | trained without | AP − trained without | Δ |" in both
    assert "| 12.0 ± 1.5 | 29.0 ± 1.5 | +6.0 [+5.0, +7.0] | +3.5 [+2.5, +4.5] |" in both
    assert "zeroed: the residual branches of res4 and res5 taken as 0 after training;" in both
    assert "zeroed" not in brief_table(record | {"rows": [row | plain, own_zeroed]})
    assert "standard deviation of 2 seeds" in text and "Δ: gain over R-50, paired by seed" in text


def test_missing_record_or_view_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"gone\.json"):
        update_tables("<!-- gone.json ap -->\n<!-- end -->", str(tmp_path), {"ap": str})
    with pytest.raises(InputError, match=r"a\.json xy .*expected a view among ap"):
        update_tables("<!-- a.json xy -->\n<!-- end -->", str(tmp_path), {"ap": str})
    with pytest.raises(InputError, match=r"a\.json -->: expected a view among ap"):
        update_tables("<!-- a.json -->\n<!-- end -->", str(tmp_path), {"ap": str})


@pytest.mark.parametrize(
    "text",
    [
        "<!-- a.json ap -->\nprose\n<!-- a.json ap -->\n<!-- end -->\n",
        "<!-- a.json ap -->\nprose\n",
        "<!-- a.json ap -->\r\n<!-- end -->\n",
    ],
)
def test_marker_without_an_end_swallows_nothing(tmp_path, text) -> None:
    write_json(make_record("python x.py", [{"a_ms": 1}]), str(tmp_path / "a.json"))
    with pytest.raises(InputError, match="markers"):
        update_tables(text, str(tmp_path), {"ap": lambda _record: "table"})


def test_broken_record_is_named(tmp_path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        update_tables("<!-- a.json ap -->\n<!-- end -->", str(tmp_path), {"ap": str})
