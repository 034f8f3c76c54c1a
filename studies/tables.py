"""Markdown tables of records, and the replacement of these tables in a document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lambda_det.comparison.controls import NAMED_STAGES, TRAINED_WITHOUT
from lambda_det.comparison.notes import baselines_of, limit_note, pretrain_note
from lambda_det.comparison.tables import (
    found_cells,
    found_headers,
    gain_cell,
    interval,
    markdown,
    plus_minus,
    sets_of,
    tasks_of,
)
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import AP_METRICS, TASK_NAMES
from lambda_det.io import read_json
from lambda_det.records import markdown_row, provenance


def brief_table(record: Mapping, *, zeroed: bool = False) -> str:
    """Make the short table of a comparison's record, with one line for each set and model: AP, what
    it rests on, and the gain. It gives the answer before the full tables; ``zeroed`` adds the
    control of this name, and the difference to the training without branches."""
    rows, with_sets = record["rows"], "sets" in record
    tasks = tasks_of(rows) or ["box"]
    names = ["zeroed", "trained without"] if zeroed else ["trained without"]
    controls = {
        task: [n for n in names if any(_control_column(task, n) in row for row in rows)]
        for task in tasks
    }
    rests = {task: zeroed and "trained without" in controls[task] for task in tasks}
    headers = [*(["set"] if with_sets else []), "backbone", *found_headers(rows)]
    for task in tasks:
        over = ["AP − trained without"] if rests[task] else []
        headers += [f"{task} AP", *controls[task], *over, "Δ"]
    lines = []
    for label, row in ((label, row) for label, of_set in sets_of(record) for row in of_set):
        line = [*([label] if with_sets else []), row["label"], *found_cells(row, rows)]
        for task in tasks:
            line.append(plus_minus(row.get(f"{task}_ap")))
            line += [plus_minus(row.get(_control_column(task, name))) for name in controls[task]]
            if rests[task]:
                line.append(interval(row.get(f"{task}_ap_over_{TRAINED_WITHOUT}")))
            line.append(gain_cell(row, f"{task}_ap"))
        lines.append(line)
    seeds = sorted({row["finished"] for row in rows})
    one = seeds[-1] == 1
    number = "–".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    spread = "of one seed" if one else f"mean ± sample standard deviation of {number} seeds"
    legend = [f"AP in percent, {spread}"]
    if found_headers(rows):
        legend.append("found: objects detected at IoU 0.5; right class: detected with that class")
    shown = {name for of_task in controls.values() for name in of_task}
    if "zeroed" in shown:
        legend.append(f"zeroed: the residual branches of {NAMED_STAGES} taken as 0 after training")
    if "trained without" in shown:
        legend.append(
            f"trained without: the same with the residual branches of {NAMED_STAGES} at 0"
        )
    if over := baselines_of(rows):
        paired = "" if one else ", paired by seed, with its 95 % interval"
        legend.append(f"Δ: gain over {' and '.join(over)}{paired}")
    after = [pretrain_note(record), limit_note(rows), *record.get("remarks", ())]
    remark = " ".join([f"{'; '.join(legend)}.", *filter(None, after)])
    return f"{markdown(headers, lines)}\n\n{remark}\n\n{provenance(record)}"


def _control_column(task: str, name: str) -> str:
    return f"{task}_ap_{name.replace(' ', '_')}"


def ap_table(record: Mapping) -> str:
    """Format the AP of a record's rows as a Markdown table, with the record's provenance below.

    If rows have controls (``box_ap_zeroed``, ``box_ap_trained_without``), these have columns of
    their own beside AP. If rows have last norms, these follow below the table.
    """
    controls = [
        name
        for name in ("zeroed", "trained_without")
        if any(f"{task}_ap_{name}" in row for row in record["rows"] for task in TASK_NAMES.values())
    ]
    headers = ["AP", *(f"AP, {name.replace('_', ' ')}" for name in controls), *AP_METRICS[1:]]
    columns = ["ap", *(f"ap_{name}" for name in controls), *map(str.lower, AP_METRICS[1:])]
    lines = [
        "| backbone | task | " + " | ".join(headers) + " |",
        "|---|---|" + "---|" * len(headers),
    ]
    for row in record["rows"]:
        for task in TASK_NAMES.values():
            if f"{task}_ap" not in row:
                continue
            values = (row.get(f"{task}_{column}") for column in columns)
            cells = ["–" if value is None else f"{value:.1f}" for value in values]
            lines.append(f"| {row['variant']}-{row['depth']} | {task} | {' | '.join(cells)} |")
    norms = [
        f"{row['variant']}-{row['depth']} "
        + ", ".join(f"{stage} {value:.3f}" for stage, value in row["last_norm"].items())
        for row in record["rows"]
        if "last_norm" in row
    ]
    if norms:
        lines += ["", f"Mean |last norm| of the residual branches: {'; '.join(norms)}."]
    return "\n".join([*lines, "", provenance(record)])


def rows_table(record: Mapping) -> str:
    """Format all values of a record's rows as a Markdown table; repeated values as mean ± sd."""
    rows = record["rows"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [
        markdown_row([name.replace("_", " ") for name in columns]),
        "|" + "---|" * len(columns),
    ]
    lines += [markdown_row([_cell(row.get(name)) for name in columns]) for row in rows]
    return "\n".join([*lines, "", provenance(record)])


def figures_table(record: Mapping) -> str:
    """Format the rows of a record as columns of a Markdown table, for few rows of many values."""
    rows = record["rows"]
    lines = [markdown_row(["", *[""] * len(rows)]), "|" + "---|" * (len(rows) + 1)]
    for name in dict.fromkeys(name for row in rows for name in row):
        lines.append(markdown_row([name.replace("_", " "), *[_cell(r.get(name)) for r in rows]]))
    return "\n".join([*lines, "", provenance(record)])


def update_tables(text: str, results: str, views: Mapping[str, Callable[[Mapping], str]]) -> str:
    """Replace every part between ``<!-- NAME.json VIEW -->`` and ``<!-- end -->`` by a new table.

    Args:
        text: text of a Markdown document.
        results: folder of the records.
        views: VIEW -> function that makes Markdown from a record.

    Returns:
        The new text.

    Raises:
        InputError: a record or a view that the text names does not exist, a record is not valid
            JSON, or a marker has no end.
    """

    def replace(match: re.Match) -> str:
        if match["view"] not in views:
            raise InputError(f"{match[1]}: expected a view among {', '.join(views)}")
        table = views[match["view"]](read_json(results, match["name"]))
        return f"{match[1]}\n{table}\n<!-- end -->"

    # The pattern also matches a marker without a view, so that it raises an error and its table
    # does not become outdated. The text between may not contain another marker: otherwise a marker
    # without an end would replace everything up to the next end.
    marker = r"(<!--\s*(?P<name>[\w.-]+\.json) ?(?P<view>\w*)\s*-->)\n(?:(?!<!--).)*<!-- end -->"
    new, replaced = re.subn(marker, replace, text, flags=re.S)
    if replaced != (found := len(re.findall(r"<!--\s*[\w.-]+\.json", text))):
        raise InputError(
            f"{found} markers '<!-- NAME.json VIEW -->', but {replaced} of them followed by a new "
            "line, a table and '<!-- end -->'"
        )
    return new


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):  # a list of findings, which are read in the record itself
        return str(len(value))
    if isinstance(value, Mapping) and "mean" in value:
        sd = value.get("sd")
        return f"{value['mean']:.2f}" + ("" if sd is None else f" ± {sd:.2f}")
    return f"{value:g}" if isinstance(value, float) else str(value)
