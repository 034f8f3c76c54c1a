"""The layers of the paper's comparison, counted."""

from __future__ import annotations

import json

import pytest

from lambda_det.layers.attention import KINDS
from studies.paper import count
from studies.paper.rivals import local_relation_network, patchwise_network, rivals_table


@pytest.fixture(scope="module")
def record(project):
    return json.loads((project / "results" / "rivals.json").read_text())


def test_counting_again_gives_the_record(record, tmp_path, capsys) -> None:
    assert count.main(["rivals", "--output", str(tmp_path / "r.json")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["rows"] == record["rows"]
    assert "| local_attention | 18.04 |" in capsys.readouterr().out


def test_what_the_paper_counts_is_met_or_named(record) -> None:
    rows = [row for row in record["rows"] if row["kind"] == "reading"]
    met = {row["row"].partition(" (")[2].rstrip(")") for row in rows if row["agrees"]}
    assert {"Bello", "Ramachandran", "Zhao"} <= met
    missed = {row["row"]: row["difference_m"] for row in rows if not row["agrees"]}
    assert abs(missed["conv + linear attention (Chen)"]) < 0.1  # the last reading of each
    assert abs(missed["local relative self-attention (Hu)"]) <= 0.05


def test_networks_that_are_no_resnet_50() -> None:
    # Every convolution of github.com/hszhao/SAN, model/san.py, with the biases that it has there.
    assert patchwise_network() == 20_518_470
    assert round(local_relation_network() / 1e6, 2) == 23.35


def test_memory_of_attention_maps(record) -> None:
    rows = {row["layer"]: row for row in record["rows"] if row["kind"] == "memory"}
    for layer, published in (("global_attention", 120), ("axial_attention", 4.8)):
        row = rows[layer]
        assert row["published_memory_gb"] == published
        assert row["formula_gib"] == pytest.approx(published, rel=0.03)
        assert row["formula_at_inputs_gib"] < row["kept_gib"] < 10 * published


def test_table_has_every_kind(record) -> None:
    table = rivals_table(record)
    assert all(f"| {kind} |" in table for kind in (*KINDS, "convolution"))
