"""The tables of the documents are those of the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.documents import document_with_tables, documents

PROJECT = Path(__file__).resolve().parents[2]
PAGES = documents(PROJECT)


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_those_of_the_records(name: str) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert document_with_tables(PROJECT, name) == text


def test_tables_are_there() -> None:
    shown = "\n".join((PROJECT / name).read_text(encoding="utf-8") for name in PAGES)
    for marker in ("quickstart.json ap", "architectures.json architectures", "soak.json figures"):
        assert f"<!-- {marker} -->" in shown
    assert "| lambda-420 |" in shown
