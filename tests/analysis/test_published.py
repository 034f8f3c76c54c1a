"""The published numbers that ship, and how their loader merges rows and tables."""

from __future__ import annotations

import yaml

from lambda_det.analysis.published import load_published

GOOD = {
    "source": "somebody",
    "one": {
        "title": "One",
        "columns": {"parameters_m": "table"},
        "model": {"depth": 50, "variant": "resnet", "stem": "v1"},
        "rows": [
            {"name": "a", "parameters_m": 1.5, "stages": "CCCL", "note": "why"},
            {"name": "b", "parameters_m": 2, "model": {"stem": "rs"}},
        ],
    },
}


def test_rows_merge_their_table(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GOOD))
    table = load_published(tmp_path)["one"]
    assert table.source == "somebody" and table.marks == {"parameters_m": "table"}
    first, second = table.rows
    blocks = {"res2": [], "res3": [], "res4": [], "res5": "all"}
    model = {"depth": 50, "variant": "resnet", "stem": "v1"}
    assert first.model == {**model, "lambda_blocks": blocks} and first.note == "why"
    assert second.model == {**model, "stem": "rs"} and second.values == {"parameters_m": 2}


def test_shipped_tables(project) -> None:
    (table,) = load_published(project / "configs" / "published").values()
    assert table.name == "mask_rcnn" and "arxiv.org/abs/2102.08602" in table.source
    values = {row.name: row.values for row in table.rows}
    assert values["LambdaResNet-152"]["box_ap"] == 50.0
    assert values["ResNet-101"]["mask_apl"] == 60.0
    assert all(row.model is not None for row in table.rows)
