"""Reading of published numbers (``configs/published/*.yaml``), which stand beside our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import yaml

from lambda_det.backbone.architectures import STAGES
from lambda_det.errors import InputError, reason_of

MARKS = ("table", "quoted", "computed", "unconfirmed")
"""How reliable a number is: it was read from the paper's own table, quoted by a third party,
reproduced by counting, or taken from a source that could not be opened."""

_TABLE_KEYS = {"title", "columns", "rows", "model", "stages"}
_ROW_KEYS = {"name", "note", "model", "stages"}


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
    """Read all tables of all YAML files in a folder.

    Returns:
        Name of the table -> table.

    Raises:
        InputError: the folder contains no YAML file, or a file is invalid. The message names the
            file, the table and the row.
    """
    paths = sorted(Path(folder).glob("*.yaml"))
    if not paths:
        raise InputError(f"{folder}: contains no *.yaml with published numbers")
    tables: dict[str, PublishedTable] = {}
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            raise InputError(f"{path}: cannot be read as YAML ({reason_of(error)})") from error
        if not isinstance(content, dict) or not isinstance(content.get("source"), str):
            raise InputError(f"{path}: expected a mapping with 'source' and tables")
        for name, table in content.items():
            if name == "source":
                continue
            if name in tables:
                raise InputError(f"{path}: table {name!r} exists twice")
            tables[name] = _table(name, table, content["source"], str(path))
    return tables


def _table(name: str, table: object, source: str, path: str) -> PublishedTable:
    where = f"{path}: table {name!r}"
    if not isinstance(table, dict) or not {"title", "columns", "rows"} <= table.keys():
        raise InputError(f"{where}: expected title, columns and rows")
    _refuse_unknown(where, table, _TABLE_KEYS)
    marks = table["columns"]
    if not isinstance(marks, dict) or not marks:
        raise InputError(f"{where}: columns={marks!r}: expected a mapping of columns to marks")
    for column, mark in marks.items():
        if mark not in MARKS:
            raise InputError(f"{where}: {column}: {mark!r}: expected one of {', '.join(MARKS)}")
    if not isinstance(table["rows"], list):
        raise InputError(f"{where}: rows: expected a list")
    rows = [_row(where, row, table, marks) for row in table["rows"]]
    names = [row.name for row in rows]
    for row_name in names:
        if names.count(row_name) > 1:
            raise InputError(f"{where}: row {row_name!r} exists twice")
    return PublishedTable(name, str(table["title"]), source, dict(marks), rows)


def _row(where: str, row: object, table: Mapping, marks: Mapping[str, str]) -> PublishedRow:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise InputError(f"{where}: {row!r}: expected a row with a name")
    where = f"{where}: row {row['name']!r}"
    _refuse_unknown(where, row, _ROW_KEYS | marks.keys())
    values = {column: row[column] for column in marks if column in row}
    for column, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise InputError(f"{where}: {column}={value!r}: expected a number")
    if not values:
        raise InputError(f"{where}: expected at least one of {', '.join(marks)}")
    return PublishedRow(row["name"], values, _model(where, row, table), str(row.get("note", "")))


def _model(where: str, row: Mapping, table: Mapping) -> dict[str, object] | None:
    """Merge the row's and the table's arguments and translate ``stages`` into lambda_blocks."""
    parts = [part["model"] for part in (table, row) if "model" in part]
    for part in parts:
        if not isinstance(part, dict):
            raise InputError(f"{where}: model={part!r}: expected arguments of build_lambda_resnet")
    letters = row.get("stages", table.get("stages"))
    if not parts:
        if letters is not None:
            raise InputError(f"{where}: stages={letters!r}: expected 'model' beside 'stages'")
        return None
    model = {key: value for part in parts for key, value in part.items()}
    if not {"depth", "variant"} <= model.keys():
        raise InputError(f"{where}: model={model!r}: expected at least depth and variant")
    if letters is not None:
        model["lambda_blocks"] = lambda_blocks_of(letters, where)
    return model


def lambda_blocks_of(letters: str, where: str = "stages") -> dict[str, object]:
    """Translate the paper's notation for hybrids, such as ``"CLLL"``, into ``lambda_blocks``.

    Args:
        letters: one letter for each of res2, res3, res4 and res5: all blocks of the stage have a
            3x3 convolution (C) or a lambda layer (L).
        where: beginning of the error message.

    Raises:
        InputError: ``letters`` is not four letters C or L.
    """
    if not isinstance(letters, str) or len(letters) != 4 or set(letters) - {"C", "L"}:
        raise InputError(f"{where}: stages={letters!r}: expected four letters, C or L each")
    return {
        stage: "all" if letter == "L" else [] for stage, letter in zip(STAGES, letters, strict=True)
    }


def _refuse_unknown(where: str, mapping: Mapping, allowed: set[str]) -> None:
    for key in mapping:
        if key not in allowed:
            raise InputError(f"{where}: unknown key {key!r}, expected {', '.join(sorted(allowed))}")
