"""The documents whose tables are made from the records in ``results/``."""

from __future__ import annotations

from pathlib import Path

from lambda_det.comparison.tables import brief_table, comparison_tables
from studies.benchmarks.backbone_report import backbones_table
from studies.benchmarks.layer_report import layers_table
from studies.evidence.why_table import why_tables
from studies.paper.family import architecture_table
from studies.tables import ap_table, figures_table, rows_table, update_tables

VIEWS = {
    "ap": ap_table,
    "architectures": architecture_table,
    "brief": brief_table,
    "backbones": backbones_table,
    "comparison": comparison_tables,
    "figures": figures_table,
    "layers": layers_table,
    "rows": rows_table,
    "why": why_tables,
}
"""Word in a marker ``<!-- NAME.json VIEW -->`` -> what makes Markdown from the record."""


def documents(project: Path) -> list[str]:
    """The pages of a checkout, relative to its root."""
    pages = sorted(path.relative_to(project).as_posix() for path in project.glob("docs/*.md"))
    return ["README.md", "MODEL_ZOO.md", "CONTRIBUTING.md", "studies/README.md", *pages]


def document_with_tables(project: Path, name: str) -> str:
    """The text of a document with its tables made anew from ``results/``.

    Args:
        project: root of the checkout.
        name: one of :func:`documents`.

    Raises:
        InputError: the document names a record or a view that does not exist.
    """
    text = (project / name).read_text(encoding="utf-8")
    return update_tables(text, str(project / "results"), VIEWS)
