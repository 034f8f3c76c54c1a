"""The command that counts the paper's tables and the family: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from lambda_det.analysis.published import MARKS
from studies.paper import count
from studies.paper.count import main, published_tables


def files(project: Path) -> list[dict]:
    folders = (project / "configs" / "published", project / "studies" / "paper" / "published")
    paths = (path for folder in folders for path in folder.glob("*.yaml"))
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths]


def test_published_tables(project: Path) -> None:
    tables = published_tables()
    names = {"resnet_rs_family", "hybrids", "depth_heads_intra_depth", "scope", "mask_rcnn"}
    assert names <= set(tables)
    for table in tables.values():
        assert "arxiv.org/abs/2102.08602" in table.source
        assert set(table.marks.values()) <= set(MARKS)
        assert len({row.name for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert row.values and all(type(value) in (int, float) for value in row.values.values())
            assert row.model is None or {"depth", "variant"} <= row.model.keys()
    assert len(tables) == sum(len(content) - 1 for content in files(project))
    for content in files(project):
        for table in (content[name] for name in content if name != "source"):
            assert table.keys() <= {"title", "columns", "rows", "model", "stages"}
            known = {"name", "note", "model", "stages", *table["columns"]}
            assert all(row.keys() <= known for row in table["rows"])
    assert sum(row.model is not None for table in tables.values() for row in table.rows) > 40


def test_tables_are_those_that_are_committed(project: Path, tmp_path, capsys) -> None:
    assert main(["tables", "--output", str(tmp_path / "t.json")]) == 0
    output = capsys.readouterr().out
    assert "│ CCLL" in output and "misprint" in output and "19.4" in output
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["schema"] == 1 and record["seeds"] == [] and len(record["rows"]) == 49
    command = "python -m studies.paper.count tables --output "
    assert record["command"].startswith(command)
    committed = json.loads((project / "results" / "architecture_tables.json").read_text())
    assert committed["rows"] == record["rows"]
    assert committed["command"].startswith(command)


def test_the_family_is_printed_and_written(project: Path, tmp_path, capsys, monkeypatch) -> None:
    committed = json.loads((project / "results" / "architectures.json").read_text())
    rows = committed["rows"][:1]  # tests/studies/paper/test_paper_tables.py counts more
    monkeypatch.setattr(count, "count_family", lambda tables, progress: progress("one") or rows)
    assert main(["family", "--output", str(tmp_path / "f.json")]) == 0
    printed = capsys.readouterr()
    assert "| resnet-50 " in printed.out and printed.err == "one\n"
    record = json.loads((tmp_path / "f.json").read_text())
    command = "python -m studies.paper.count family --output "
    assert record["rows"] == rows and record["command"].startswith(command)
    assert committed["command"].startswith(command)


def test_an_output_that_is_a_folder_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["tables", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --output {tmp_path} cannot be written")
    assert error.count("\n") == 1
