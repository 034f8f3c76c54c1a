"""The paper's parameter and FLOP tables, compared with our counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tabulate import tabulate

from lambda_det.analysis.parameters import NUM_CLASSES, count_parameters
from lambda_det.analysis.published import PublishedTable, lambda_blocks_of
from lambda_det.backbone import LambdaResNet, build_lambda_resnet
from lambda_det.errors import InputError
from studies.paper.flop_reading import search_content_table, search_scope_table
from studies.paper.flop_rules import PAPER, PLAIN, FlopRule, totals_by_rule

SHOWN_READINGS = 3


def compare_with_paper(tables: Mapping[str, PublishedTable]) -> list[dict]:
    """Compare every published count of a network that we can build with our count.

    Args:
        tables: published tables from :func:`lambda_det.analysis.published.load_published`.

    Returns:
        Rows of a record. Their ``kind`` is ``"parameters"``, ``"flops"``, or ``"flop_reading"`` for
        the readings of :mod:`studies.paper.flop_reading` that fit the paper's FLOPs best.

    Raises:
        InputError: the tables of scopes or of content and position are missing.
    """
    for name in ("scope", "content_and_position"):
        if name not in tables:
            raise InputError(f"published tables: {name!r} is missing; found {list(tables)}")
    rows = []
    for table in tables.values():
        rows += _parameter_rows(table) + _flop_rows(table)
    scope = tables["scope"]
    readings = search_scope_table(scope)
    rows += _reading_rows("scope", readings)
    scopes = [row.name for row in scope.rows]
    content = search_content_table(tables["content_and_position"], readings[0], scopes)
    return rows + _reading_rows("content_and_position", content)


def comparison_text(rows: Sequence[Mapping], tables: Mapping[str, PublishedTable]) -> str:
    """Format the rows of :func:`compare_with_paper` as tables for a terminal."""
    parts = []
    for kind, layout in _LAYOUTS.items():
        for name, table in tables.items():
            chosen = [row for row in rows if row["kind"] == kind and row["table"] == name]
            if chosen:
                heading = f"{table.title}\n{table.source}; published: {chosen[0]['mark']}"
                parts.append(f"{heading}\n{_table(chosen, layout)}")
    for name in ("scope", "content_and_position"):
        chosen = [row for row in rows if row["kind"] == "flop_reading" and row["table"] == name]
        heading = (
            f"{tables[name].title}: the {len(chosen)} nearest of {chosen[0]['candidates']} readings"
        )
        parts.append(f"{heading}\n{_table(chosen, _READING_LAYOUT)}")
    return "\n\n".join(parts)


def network(model: Mapping[str, object]) -> LambdaResNet:
    """Build the network of a published row as a classifier, on the meta device."""
    arguments = {"num_classes": NUM_CLASSES, "out_features": ("linear",)} | dict(model)
    with torch.device("meta"):
        return build_lambda_resnet(**arguments).eval()


def _parameter_rows(table: PublishedTable) -> list[dict]:
    rows = []
    for row in table.rows:
        if row.model is None or "parameters_m" not in row.values:
            continue
        published = row.values["parameters_m"]
        count = count_parameters(network(row.model)).total() / 1e6
        rows.append(
            {
                "kind": "parameters",
                "table": table.name,
                "row": row.name,
                "mark": table.marks["parameters_m"],
                "published_parameters_m": published,
                "parameters_m": round(count, 3),
                "difference_m": round(count - published, 3),
                "agrees": f"{count:.1f}" == f"{published:.1f}",
                "note": row.note,
            }
        )
    return rows


def _flop_rows(table: PublishedTable) -> list[dict]:
    rows = []
    for row in table.rows:
        if row.model is None or "gflops" not in row.values:
            continue
        published = row.values["gflops"]
        counted = _giga(row.model)
        by_paper = counted[PAPER]
        all_lambda = {**row.model, "lambda_blocks": lambda_blocks_of("LLLL")}
        counted_all = counted if all_lambda == row.model else _giga(all_lambda)
        rows.append(
            {
                "kind": "flops",
                "table": table.name,
                "row": row.name,
                "mark": table.marks["gflops"],
                "published_gflops": published,
                "paper_rule_gflops": round(by_paper, 2),
                "difference_gflops": round(by_paper - published, 2),
                "agrees": f"{by_paper:.1f}" == f"{published:.1f}",
                "plain_gmac": round(counted[PLAIN], 2),
                "plain_gmac_all_lambda": round(counted_all[PLAIN], 2),
                "note": row.note,
            }
        )
    return rows


def _giga(model: Mapping[str, object]) -> dict[FlopRule, float]:
    return {rule: t / 1e9 for rule, t in totals_by_rule(network(model), PAPER, PLAIN).items()}


def _reading_rows(table: str, readings: Sequence[Mapping]) -> list[dict]:
    return [
        {
            "kind": "flop_reading",
            "table": table,
            "row": str(rank),
            "candidates": len(readings),
            "network": reading["network"],
            "scope": reading.get("scope"),
            "flops_per_multiply_add": reading["dense"],
            "flops_per_position_multiply_add": reading["position"],
            **{
                key: reading[key]
                for key in (
                    "window", "order", "strided_at", "rms_gflops", "max_gflops", "digits_agree",
                    "gflops",
                )
            },
        }
        for rank, reading in enumerate(readings[:SHOWN_READINGS], start=1)
    ]  # fmt: skip


# Heading -> (key of a row, format of its number).
_LAYOUTS = {
    "parameters": {
        "": ("row", ""),
        "paper M": ("published_parameters_m", ".1f"),
        "ours M": ("parameters_m", ".3f"),
        "difference": ("difference_m", "+.3f"),
        "agrees": ("agrees", ""),
    },
    "flops": {
        "": ("row", ""),
        "paper GFLOPs": ("published_gflops", ".1f"),
        "best rule": ("paper_rule_gflops", ".2f"),
        "difference": ("difference_gflops", "+.2f"),
        "agrees": ("agrees", ""),
        "plain GMAC": ("plain_gmac", ".2f"),
        "plain GMAC, LLLL": ("plain_gmac_all_lambda", ".2f"),
    },
}
_READING_LAYOUT = {
    "": ("row", ""),
    "network": ("network", ""),
    "scope": ("scope", ""),
    "FLOPs per MAC": ("flops_per_multiply_add", "d"),
    "… of position": ("flops_per_position_multiply_add", "d"),
    "window": ("window", ""),
    "order": ("order", ""),
    "strided at": ("strided_at", ""),
    "rms": ("rms_gflops", ".3f"),
    "max": ("max_gflops", ".3f"),
    "numbers met": ("digits_agree", "d"),
}


def _table(rows: Sequence[Mapping], layout: Mapping[str, tuple[str, str]]) -> str:
    """Format the columns of ``layout`` that the rows have, with the rows' notes below."""
    columns = {
        heading: column
        for heading, column in layout.items()
        if any(row.get(column[0]) is not None for row in rows)
    }
    cells = [[_cell(row[key], form) for key, form in columns.values()] for row in rows]
    text = tabulate(
        cells,
        headers=list(columns),
        tablefmt="rounded_outline",
        disable_numparse=True,
        colalign=["right" if form else "left" for _, form in columns.values()],
    )
    notes = [f"{row['row']}: {row['note']}" for row in rows if row.get("note")]
    return "\n".join([text, *notes])


def _cell(value: object, form: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return format(value, form)
