"""The paper's tables beside ours, and the reading of its FLOPs.

They are read from the committed record; test_count.py counts it anew.
"""

from __future__ import annotations

import json

import pytest

from lambda_det.errors import InputError
from studies.paper.count import published_tables
from studies.paper.family import SIZES, architecture_table, count_family
from studies.paper.flop_reading import NetworkCost, Reading
from studies.paper.paper_tables import compare_with_paper, comparison_text


@pytest.fixture(scope="module")
def tables():
    return published_tables()


@pytest.fixture(scope="module")
def rows(project):
    return json.loads((project / "results" / "architecture_tables.json").read_text())["rows"]


def test_what_disagrees_is_known_and_explained(rows) -> None:
    compared = [row for row in rows if row["kind"] in ("parameters", "flops")]
    assert len(compared) == 8 + 8 + 4 + 15 + 6 + 2
    noted = {row["row"] for row in compared if row["note"]}
    assert {row["row"] for row in compared if not row["agrees"]} == noted
    assert noted == {
        "CCLL", "k 2, h 4, u 1", "k 2, h 8, u 1", "k 4, h 8, u 1", "k 8, h 2, u 1",
        "k 8, h 16, u 1", "k 32, h 8, u 1",
    }  # fmt: skip
    assert "misprint" in next(row["note"] for row in compared if row["row"] == "CCLL")


def test_best_reading_gives_every_published_number(rows) -> None:
    readings = [row for row in rows if row["kind"] == "flop_reading"]
    scope = [row for row in readings if row["table"] == "scope"]
    best, second = scope[0], scope[1]
    assert (best["network"], best["window"], best["strided_at"]) == ("CLLL", "clipped", "input")
    assert best["flops_per_multiply_add"] == best["flops_per_position_multiply_add"] == 2
    assert best["order"] == "lambda_first" and best["candidates"] == 7 * 48
    assert best["digits_agree"] == 6 and best["max_gflops"] < 0.05
    assert second["digits_agree"] < 6 and second["rms_gflops"] > 10 * best["rms_gflops"]
    content = [row for row in readings if row["table"] == "content_and_position"]
    assert (content[0]["network"], content[0]["scope"]) == ("LLLL", "23")
    assert content[0]["digits_agree"] == 2 and content[1]["digits_agree"] == 0


def test_search_counts_as_the_counter_does(rows) -> None:
    """The search's closed formulas and the counting of the built network are two ways."""
    flops = {row["row"]: row for row in rows if row["kind"] == "flops"}
    plain = Reading("CLLL", 1, 1, "full", "lambda_first", "input")
    cost = NetworkCost.of("CLLL")
    for scope in ("7", "23", "global"):
        size = scope if scope == "global" else int(scope)
        assert round(cost.gflops(plain, size), 2) == flops[scope]["plain_gmac"]
    best = next(row for row in rows if row["kind"] == "flop_reading")
    for scope, value in best["gflops"].items():
        assert value == flops[scope]["paper_rule_gflops"]


def test_text(rows, tables) -> None:
    text = comparison_text(rows, tables)
    line = next(line for line in text.splitlines() if line.startswith("│ CCLL"))
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "CCLL", "15.4", "15.560", "+0.160", "NO"
    ]  # fmt: skip
    assert "CCLL: a misprint" in text
    assert max(len(line) for line in text.splitlines()) < 200


def test_missing_table(tables) -> None:
    with pytest.raises(InputError, match="published tables: 'scope' is missing"):
        compare_with_paper({"hybrids": tables["hybrids"]})


def test_committed_family_is_this_count(project, tables) -> None:
    record = json.loads((project / "results" / "architectures.json").read_text())
    assert len(record["rows"]) == 28
    seen = []
    assert count_family(tables, depths=(50, 101), progress=seen.append) == record["rows"][:8]
    assert seen[:4] == ["resnet-50", "se-50", "lambda-50", "lambda_full-50"] and len(seen) == 8


def test_architecture_table(project) -> None:
    record = json.loads((project / "results" / "architectures.json").read_text())
    lines = architecture_table(record).splitlines()
    assert len(lines) == 2 + 28 + 2
    assert all(f"{height}×{width}" in lines[0] for height, width in SIZES)
    row = next(line for line in lines if line.startswith("| lambda-101 "))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:3] == ["lambda-101", "36.87", "34.82"]
    assert cells[-3:] == ["82.3", "49.4", "43.5"]
