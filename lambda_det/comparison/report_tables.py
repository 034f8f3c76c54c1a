"""The tables of report.html: the numbers of results.md as HTML, gains in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lambda_det.comparison.controls import gain_remark
from lambda_det.comparison.page import details, gain, table
from lambda_det.comparison.run_files import FAILED, FINISHED
from lambda_det.comparison.tables import (
    COSTS,
    DETAILS,
    SIZES,
    control_cells,
    control_headers,
    cost,
    found_cells,
    found_headers,
    plus_minus,
    published_ap,
    published_sizes,
    sets_of,
    signed,
    tasks_of,
)


def gain_cards(record: Mapping) -> str:
    """The answer first: each model's gain."""
    cards = []
    for label, rows in sets_of(record):
        of_model = {row["model"]: row for row in rows}
        for row in rows:
            for task in tasks_of(rows) if row["over"] else ():
                value = row.get(f"{task}_ap_gain")
                if value is None:
                    continue
                baseline = of_model[row["over"]]
                what = f"{task} AP, {row['label']} over {baseline['label']}"
                where = f"{escape(label)}<br>" if label else ""
                remark = gain_remark(row, baseline, task)
                shown = gain(value, signed, whole=False, even=bool(remark))
                more = f"<br><b>{escape(remark)}</b>" if remark else ""
                cards.append(
                    f"<div class=card><div class=big>{shown}</div>"
                    f"<small>{where}{escape(what)}<br>{_certainty(value)}{more}</small></div>"
                )
    return f"<div class=cards>{''.join(cards)}</div>" if cards else ""


def _certainty(value: Mapping) -> str:
    if value["low"] is None:
        return "one seed: no interval"
    holds = ", which holds 0" if value["low"] <= 0 <= value["high"] else ""
    number = len(value["values"])
    return f"95 %: {signed(value['low'])} to {signed(value['high'])}{holds}; {number} seeds"


def ap_table(rows: Sequence[Mapping]) -> str:
    """The paper's layout, with every gain."""
    tasks = tasks_of(rows) or ["box"]
    known = {column for row in rows for column in row.get("published", {})}
    published = [task for task in tasks if f"{task}_ap" in known]
    headers = ["backbone", "seeds", *found_headers(rows)]
    for task in tasks:
        headers += [f"{task} AP", *control_headers(rows, task), "Δ", "small", "medium", "large"]
    for task in published:
        headers += [f"{task} AP,<br>published", "s / m / l,<br>published"]
    lines = []
    for row in rows:
        line = [escape(row["label"]), f"{row['finished']}/{row['planned']}"]
        line += found_cells(row, rows)
        for task in tasks:
            line += [
                f"<b>{plus_minus(row.get(f'{task}_ap'))}</b>",
                *control_cells(row, rows, task, lambda value: gain(value, signed)),
                gain(row.get(f"{task}_ap_gain"), signed) if row["over"] else "",
                *(_with_gain(row, f"{task}_{size}") for size in SIZES),
            ]
        for task in published:
            line += [
                f"<span class=published>{published_ap(row, rows, task)}</span>",
                f"<span class=published>{published_sizes(row, task)}</span>",
            ]
        lines.append(line)
    return table(headers, lines, groups=_groups(rows))


def _with_gain(row: Mapping, column: str) -> str:
    text = plus_minus(row.get(column), spread=False)
    value = row.get(f"{column}_gain")
    return text if value is None else f"{text} <small>{gain(value, signed, whole=False)}</small>"


def every_metric(rows: Sequence[Mapping]) -> str:
    """A table for each task with every metric, folded away."""
    parts = []
    for task in tasks_of(rows):
        lines = []
        for row in rows:
            values = [plus_minus(row.get(f"{task}_{name}")) for name in DETAILS]
            lines.append([escape(row["label"]), *values])
            if row["over"]:
                gains = [gain(row.get(f"{task}_{name}_gain"), signed) for name in DETAILS]
                lines.append(["Δ", *gains])
        parts.append(table([task, *DETAILS.values()], lines))
    return details("Every metric", "".join(parts)) if parts else ""


def cost_table(rows: Sequence[Mapping]) -> str:
    """Parameters, multiply-adds, times and memory."""
    columns = [column for column in COSTS if any(column in row for row in rows)]
    sizes = ", ".join(dict.fromkeys(row["counted_at"] for row in rows if "counted_at" in row))
    headers = [
        f"GMAC at {sizes}" if column == "multiply_adds_billions" else COSTS[column]
        for column in columns
    ]
    lines = [[escape(row["label"]), *(cost(row.get(c)) for c in columns)] for row in rows]
    return table(["backbone", *headers], lines, groups=_groups(rows))


def _groups(rows: Sequence[Mapping]) -> list[int]:
    """The rows with which another depth begins."""
    return [i for i in range(1, len(rows)) if rows[i]["depth"] != rows[i - 1]["depth"]]


def difference_section(record: Mapping) -> list[str]:
    """The config keys in which the models differ."""
    if not record["differences"]:
        return []
    labels = {row["model"]: row["label"] for row in record["rows"]}
    rows = [
        [
            f"<code>{escape(key)}</code>",
            *(f"<code>{escape(repr(v))}</code>" for v in values.values()),
        ]
        for key, values in record["differences"].items()
    ]
    words = "Every other key of the configs is the same."
    return ["<h2>What the models do not share</h2>", f"<p class=soft>{words}</p>",
            table(["key", *map(escape, labels.values())], rows)]  # fmt: skip


def runs_table(record: Mapping) -> str:
    """Every run with its state."""
    with_sets = "sets" in record
    tasks = [task for task in ("box", "mask") if any(f"{task}_ap" in r for r in record["runs"])]
    headers = [*(["set"] if with_sets else []), "model", "seed", "state"]
    headers += [*(f"{task} AP" for task in tasks), "minutes", "remarks"]
    lines = []
    for run in record["runs"]:
        remarks = [run["reason"]] if run["state"] == FAILED else []
        if run["state"] == FINISHED and run["resumed"]:
            remarks.append("resumed from a checkpoint")
        if "without" in run:
            remarks.append(f"trained without {' and '.join(run['without'])}")
        values = [run.get(f"{task}_ap") for task in tasks]
        lines.append(
            [
                *([escape(run["set"])] if with_sets else []),
                escape(run["model"]), str(run["seed"]), run["state"],
                *("–" if value is None else f"{value:.1f}" for value in values),
                f"{run['run_s'] / 60:.1f}" if "run_s" in run else "–",
                escape("; ".join(remarks)),
            ]
        )  # fmt: skip
    return table(headers, lines, text=[0, 1, len(headers) - 1] if with_sets else [len(headers) - 1])
