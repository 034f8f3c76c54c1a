"""The tables of the "why" study for the documents, made from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lambda_det.comparison.tables import interval, markdown
from lambda_det.records import provenance
from studies.evidence.scenes import Layout
from studies.evidence.why_plan import scenes_name
from studies.evidence.why_report import SUBJECT

_TITLES = {
    "reach": "The colour of the marker in the own row",
    "ask": "Sets that ask for more than reach",
    "distance": "The distance of the marker",
    "rows": "Number of rows",
}


def why_tables(record: Mapping) -> str:
    """Format a table for each part in Markdown, and say how many runs of the plan are missing."""
    parts = []
    for part, title in _TITLES.items():
        rows = [row for row in record["rows"] if row["part"] == part]
        if rows:
            parts += [f"**{title}**", _table(rows)]
    missing = record["runs"]["missing"]
    state = f" {missing} of {missing + record['runs']['done']} planned runs are missing." * bool(
        missing
    )
    parts.append(
        "Right kinds: percentage of the squares in 512 validation scenes, mean over the seeds and "
        "each of them. Chance is 50; on offsets it is 67, by the majority of the markers that may "
        "decide. λ − this: difference of the network lambda to this one, paired by seed, with its "
        "95 % interval where there are three. 90 % after: for each seed, the iterations until 25 "
        "in a row had 90 % right kinds; on offsets and matches they count from the end of the 150 "
        "with scenes of rows. M, GMAC: parameters in millions and multiply-adds of the backbone. "
        "Moved: how far the position weights (the embedding or the depthwise kernel) have moved "
        f"from their random initial values, relative to their size.{state}"
    )
    return "\n\n".join([*parts, provenance(record)])


def _table(rows: Sequence[Mapping]) -> str:
    headers = [
        "scenes",
        "network",
        "seeds",
        "right kinds",
        "λ − this",
        "90 % after",
        "M",
        "GMAC",
        "moved (%)",
    ]
    return markdown(headers, [_line(row) for row in rows])


def _line(row: Mapping) -> list[str]:
    moved = [100 * share for share in row.get("moved", {}).values()]
    return [
        scenes_name(row["set"], Layout(**row["layout"])).replace("_", " "),
        row["network"],
        str(len(row["seeds"])),
        _each(row["kind_accuracy_percent"]),
        _lead(row),
        ", ".join("–" if at is None else str(at) for at in row["iterations_to_90_percent"]),
        f"{row['parameters'] / 1e6:.1f}",
        f"{row['multiply_adds'] / 1e9:.2f}",
        f"{min(moved):.1f}–{max(moved):.1f}" if moved else "",
    ]


def _each(value: Mapping) -> str:
    """The mean and, because trainings end at chance or far above it, the value of every seed."""
    if len(value["values"]) == 1:
        return f"{value['mean']:.1f}"
    return f"{value['mean']:.1f} ({', '.join(f'{each:.1f}' for each in value['values'])})"


def _lead(row: Mapping) -> str:
    lead = row.get("lambda_leads_by_percent")
    if row["network"] == SUBJECT or lead is None:
        return ""
    if len(lead["values"]) > 2:
        return interval(lead)
    # The interval of two values says nothing: Student's t is 12.7 there.
    return f"{round(lead['mean'], 1) + 0.0:+.1f}".replace("-", "−")
