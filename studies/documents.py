"""The documents whose tables are generated from the records in ``results/``."""

from __future__ import annotations

import functools
from pathlib import Path

from lambda_det.comparison.tables import comparison_tables
from studies.benchmarks.backbone_report import backbones_table
from studies.benchmarks.layer_report import layers_table, ratios_table
from studies.benchmarks.rival_layers import rival_layers_table
from studies.evidence.starts import starts_table
from studies.evidence.why_table import why_tables
from studies.gpu.estimate_table import estimates_table
from studies.gpu.kernel_table import kernels_table
from studies.paper.family import architecture_table
from studies.paper.rivals import rivals_table
from studies.tables import ap_table, brief_table, figures_table, rows_table, update_tables

VIEWS = {
    "ap": ap_table,
    "architectures": architecture_table,
    "backbones": backbones_table,
    "brief": brief_table,
    "comparison": comparison_tables,
    "estimates": estimates_table,
    "figures": figures_table,
    "kernels": kernels_table,
    "layers": layers_table,
    "parts": functools.partial(brief_table, zeroed=True),
    "ratios": ratios_table,
    "rival_layers": rival_layers_table,
    "rivals": rivals_table,
    "rows": rows_table,
    "starts": starts_table,
    "why": why_tables,
}
"""VIEW in a marker ``<!-- NAME.json VIEW -->`` -> function that makes Markdown from a record."""


def documents(project: Path) -> list[str]:
    """Paths of the pages whose tables, links and commands are checked, relative to the root."""
    pages = sorted(path.relative_to(project).as_posix() for path in project.glob("docs/*.md"))
    return ["README.md", "MODEL_ZOO.md", "CONTRIBUTING.md", "studies/README.md", *pages]


def document_with_tables(project: Path, name: str) -> str:
    """Read a document and generate its tables again from ``results/``; the file is not changed.

    Args:
        project: root of the checkout.
        name: a path that :func:`documents` returns.

    Returns:
        The new text of the document.

    Raises:
        InputError: the document names a record or a view that does not exist.
    """
    text = (project / name).read_text(encoding="utf-8")
    return update_tables(text, str(project / "results"), VIEWS)
