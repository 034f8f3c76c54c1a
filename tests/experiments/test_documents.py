"""README.md and MODEL_ZOO.md show what the records hold."""

from __future__ import annotations

import pytest

from lambda_det.experiments.documents import DOCUMENTS, document_with_tables


@pytest.mark.parametrize("name", DOCUMENTS)
def test_tables_are_those_of_the_records(project, name: str) -> None:
    text = (project / name).read_text(encoding="utf-8")
    assert document_with_tables(project, name) == text


def test_tables_are_there(project) -> None:
    readme, zoo, *pages = ((project / name).read_text(encoding="utf-8") for name in DOCUMENTS)
    assert "<!-- quickstart.json ap -->" in readme
    assert "<!-- architectures.json architectures -->" in zoo
    assert "| lambda-420 |" in zoo
    assert any("| verdict | flat |" in page for page in pages)  # of soak.json
