"""The pages of the documents lead to one another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from studies.documents import documents

PROJECT = Path(__file__).resolve().parents[2]
PAGES = documents(PROJECT)
_LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)]*))?\)")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    for link in _LINK.finditer(text):
        path = (PROJECT / page).parent / link["path"] if link["path"] else PROJECT / page
        assert path.exists(), link[0]
        if link["anchor"]:
            assert link["anchor"] in _anchors(path), link[0]


def test_readme_names_every_page() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    named = {link["path"] for link in _LINK.finditer(text)}
    named |= {  # what another page names
        f"docs/{link['path']}"
        for page in PAGES
        if page.startswith("docs/")
        for link in _LINK.finditer((PROJECT / page).read_text(encoding="utf-8"))
    }
    assert set(PAGES) - {"README.md"} <= named


def _anchors(path: Path) -> set[str]:
    """As GitHub makes them: lower case, hyphens for spaces, no other signs."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
