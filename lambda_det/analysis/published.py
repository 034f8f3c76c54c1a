"""Reading of published numbers (``configs/published/*.yaml``), which stand beside our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lambda_det.backbone.architectures import STAGES

MARKS = ("table", "quoted", "computed", "unconfirmed")
"""How reliable a number is: it was read from the paper's own table, quoted by a third party,
reproduced by counting, or taken from a source that could not be opened."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table of published numbers.

    Attributes:
        name: the name of the network, unique in its table.
        values: column -> number. Columns without a published number are absent.
        model: arguments of :func:`lambda_det.backbone.build_lambda_resnet` for the row's network;
            None if lambda_det cannot build it.
        note: why our count differs from the published one; empty if it does not.
    """

    name: str
    values: dict[str, float]
    model: dict[str, object] | None = None
    note: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """One table of published numbers.

    Attributes:
        name: the table's key in its file.
        title: what the table shows.
        source: where it was published.
        marks: column -> one of :data:`MARKS`.
        rows: the rows in the order of the publication.
    """

    name: str
    title: str
    source: str
    marks: dict[str, str]
    rows: list[PublishedRow] = field(default_factory=list)


def load_published(folder: str | Path) -> dict[str, PublishedTable]:
    """Read all tables of all YAML files in a folder of this repository.

    A test checks these files (tests/studies/paper/test_count.py); here they are trusted.

    Returns:
        Name of the table -> table.
    """
    tables = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        source = content.pop("source")
        for name, table in content.items():
            rows = [_row(row, table) for row in table["rows"]]
            tables[name] = PublishedTable(name, table["title"], source, table["columns"], rows)
    return tables


def _row(row: Mapping, table: Mapping) -> PublishedRow:
    """Merge the row's and the table's arguments and translate ``stages`` into lambda_blocks."""
    values = {column: row[column] for column in table["columns"] if column in row}
    model = {**table.get("model", {}), **row.get("model", {})}
    letters = row.get("stages", table.get("stages"))
    if letters is not None:
        model["lambda_blocks"] = lambda_blocks_of(letters)
    return PublishedRow(row["name"], values, model or None, row.get("note", ""))


def lambda_blocks_of(letters: str) -> dict[str, object]:
    """Translate the paper's notation for hybrids, such as ``"CLLL"``, into ``lambda_blocks``.

    Args:
        letters: one letter for each of res2, res3, res4 and res5: all blocks of the stage have a
            3x3 convolution (C) or a lambda layer (L).
    """
    choices = {"C": [], "L": "all"}
    return {stage: choices[letter] for stage, letter in zip(STAGES, letters, strict=True)}
