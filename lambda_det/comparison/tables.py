"""Makes results.md and the tables of MODEL_ZOO.md: the paper's layout with spread, gain and
cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from lambda_det.comparison.controls import CONTROLS, TRAINED_WITHOUT, controls_line
from lambda_det.comparison.notes import gains_line, notes, unfinished_runs
from lambda_det.comparison.results import FOUND, RIGHT_CLASS
from lambda_det.evaluation.metrics import AP_METRICS, TASK_NAMES
from lambda_det.records import markdown_row, provenance

SIZES = ("aps", "apm", "apl")
DETAILS = {name.lower(): name for name in (*AP_METRICS, "AR100")}
COSTS = {
    "parameters_millions": "parameters (M)",
    "multiply_adds_billions": "GMAC",
    "pretrained_percent": "pretrained (%)",
    "train_ms_per_image": "training (ms/image)",
    "inference_ms_per_image": "inference (ms/image)",
    "peak_host_memory_mib": "host memory (MiB)",
    "peak_gpu_memory_mib": "GPU memory (MiB)",
}
"""Column of a row -> header of the table."""


def comparison_tables(record: Mapping) -> str:
    """Make the Markdown tables of a comparison's record: for every set the table of AP and the
    table of cost, and notes on how to read them."""
    parts = []
    for label, rows in sets_of(record):
        parts += [f"**{label}**"] if label else []
        parts += [*_ap_and_meaning(rows), cost_table(rows)]
    return "\n\n".join([*parts, " ".join(notes(record)), provenance(record)])


def results_markdown(record: Mapping) -> str:
    """Make the text of results.md: tables of AP, of every metric and of cost, and every run that is
    not finished."""
    parts = [f"# {record['suite']}"]
    for label, rows in sets_of(record):
        parts += [f"## {label}"] if label else []
        parts += _ap_and_meaning(rows)
        parts += [_detail_table(rows, task) for task in tasks_of(rows)]
        parts.append(cost_table(rows))
    parts.append(" ".join(notes(record)))
    if record["differences"]:
        parts.append("What the models do not share:\n\n" + _difference_table(record))
    if unfinished := unfinished_runs(record):
        # A reason may end in "<module>", which Markdown takes for HTML and hides.
        lines = (line.replace("<", "\\<") for line in unfinished)
        parts.append("Not finished:\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join([*parts, provenance(record)]) + "\n"


def _ap_and_meaning(rows: Sequence[Mapping]) -> list[str]:
    return [part for part in (ap_table(rows), gains_line(rows), controls_line(rows)) if part]


def sets_of(record: Mapping) -> list[tuple[str, list[Mapping]]]:
    """Group a record's rows by set: pairs of label ("" without sets) and rows, sorted by depth and
    then as in the suite."""
    grouped: dict[str, list[Mapping]] = {}
    for row in record["rows"]:
        grouped.setdefault(row.get("set_label", ""), []).append(row)
    return [(s, sorted(rows, key=lambda row: row["depth"] or 0)) for s, rows in grouped.items()]


def tasks_of(rows: Iterable[Mapping]) -> list[str]:
    """The tasks, among ``box`` and ``mask``, whose AP some row has."""
    return [task for task in TASK_NAMES.values() if any(f"{task}_ap" in row for row in rows)]


def ap_table(rows: Sequence[Mapping]) -> str:
    """Make the table of AP in the paper's layout: AP of all, small, medium and large objects, the
    gain, and the published numbers in columns of their own."""
    tasks, published = tasks_of(rows) or ["box"], published_tasks(rows)
    headers = ["backbone", "seeds", *found_headers(rows)]
    for task in tasks:
        headers += [f"{task} AP", *control_headers(rows, task), "Δ", "s / m / l"]
    for task in published:
        headers += [f"{task} AP, published", "s / m / l, published"]
    lines = []
    for row in rows:
        line = [row["label"], f"{row['finished']}/{row['planned']}"]
        line += found_cells(row, rows)
        for task in tasks:
            line += [
                plus_minus(row.get(f"{task}_ap")),
                *control_cells(row, rows, task, interval),
                gain_cell(row, f"{task}_ap"),
                " / ".join(plus_minus(row.get(f"{task}_{s}"), spread=False) for s in SIZES),
            ]
        for task in published:
            line += [published_ap(row, rows, task), published_sizes(row, task)]
        lines.append(line)
    return markdown(headers, lines)


def gain_cell(row: Mapping, column: str) -> str:
    """The gain of a row in a column, "" for the baseline."""
    return interval(row.get(f"{column}_gain")) if row["over"] else ""


def found_headers(rows: Sequence[Mapping]) -> list[str]:
    """Headers of the columns of found objects and of those with the right class; none if no row has
    them."""
    known = any(RIGHT_CLASS in row for row in rows)
    return ["found (%)", "right class (%)"] if known else []


def found_cells(row: Mapping, rows: Sequence[Mapping]) -> list[str]:
    """Cells of a row below :func:`found_headers` of a table with ``rows``."""
    columns = (FOUND, RIGHT_CLASS) if found_headers(rows) else ()
    return [plus_minus(row.get(column)) for column in columns]


def control_headers(rows: Sequence[Mapping], task: str) -> list[str]:
    """Headers of the columns beside an AP for the controls that some row has."""
    headers = []
    for control in _controls_of(rows, task):
        name = control.replace("_", " ")
        headers += [name, f"AP − {name}"] if control == TRAINED_WITHOUT else [name]
    return headers


def control_cells(
    row: Mapping, rows: Sequence[Mapping], task: str, difference: Callable[[Mapping | None], str]
) -> list[str]:
    """Cells of a row below :func:`control_headers` of a table with ``rows``; ``difference`` formats
    a paired difference."""
    cells = []
    for control in _controls_of(rows, task):
        cells.append(plus_minus(row.get(f"{task}_ap_{control}")))
        if control == TRAINED_WITHOUT:
            cells.append(difference(row.get(f"{task}_ap_over_{control}")))
    return cells


def _controls_of(rows: Sequence[Mapping], task: str) -> list[str]:
    return [name for name in CONTROLS if any(f"{task}_ap_{name}" in row for row in rows)]


def cost_table(rows: Sequence[Mapping]) -> str:
    """Make the table of parameters, multiply-adds, times and memory."""
    columns = cost_columns(rows)
    lines = [[row["label"], *(cost(row.get(column)) for column in columns)] for row in rows]
    return markdown(["backbone", *columns.values()], lines)


def cost_columns(rows: Sequence[Mapping]) -> dict[str, str]:
    """The costs that some row has: column -> header of the table."""
    sizes = dict.fromkeys(row["counted_at"] for row in rows if "counted_at" in row)
    known = {column: text for column, text in COSTS.items() if any(column in row for row in rows)}
    if "multiply_adds_billions" in known:
        known["multiply_adds_billions"] = f"GMAC at {', '.join(sizes)}"
    return known


def published_tasks(rows: Sequence[Mapping]) -> list[str]:
    """The tasks whose published AP some row has."""
    known = {column for row in rows for column in row.get("published", {})}
    return [task for task in tasks_of(rows) or ["box"] if f"{task}_ap" in known]


def published_ap(row: Mapping, rows: Sequence[Mapping], task: str) -> str:
    """The published AP, and its gain over the published AP of the baseline."""
    known = {r["model"]: r.get("published", {}).get(f"{task}_ap") for r in rows}
    own, baseline = known[row["model"]], known.get(row["over"])
    if own is None:
        return "–"
    return f"{own:.1f}" if baseline is None else f"{own:.1f} ({signed(own - baseline)})"


def plus_minus(value: Mapping | None, *, spread: bool = True) -> str:
    """Format mean and standard deviation as ``35.3 ± 1.2``; None becomes a dash."""
    if value is None:
        return "–"
    shown = spread and value["sd"] is not None
    return f"{value['mean']:.1f}" + (f" ± {value['sd']:.1f}" if shown else "")


def interval(value: Mapping | None) -> str:
    """Format a paired difference with its interval as ``+3.3 [+1.9, +4.8]``; None becomes a
    dash."""
    if value is None:
        return "–"
    mean = signed(value["mean"])
    if value["low"] is None:
        return mean
    return f"{mean} [{signed(value['low'])}, {signed(value['high'])}]"


def signed(value: float) -> str:
    """Format a number with its sign and a typographic minus; 0.0 has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def cost(value: Mapping | float | None) -> str:
    """Format a cell of the cost table."""
    return f"{value:.1f}" if isinstance(value, (int, float)) else plus_minus(value)


def published_sizes(row: Mapping, task: str) -> str:
    """The published AP of small, medium and large objects."""
    values = row.get("published", {})
    cells = (values.get(f"{task}_{size}") for size in SIZES)
    return " / ".join("–" if value is None else f"{value:.1f}" for value in cells)


def _detail_table(rows: Sequence[Mapping], task: str) -> str:
    lines = []
    for row in rows:
        lines.append([row["label"], *(plus_minus(row.get(f"{task}_{n}")) for n in DETAILS)])
        if row["over"]:
            gains = (row.get(f"{task}_{name}_gain") for name in DETAILS)
            lines.append([f"{row['label']}, Δ", *map(interval, gains)])
    return markdown([task, *DETAILS.values()], lines)


def _difference_table(record: Mapping) -> str:
    labels = {row["model"]: row["label"] for row in record["rows"]}
    lines = [
        [f"`{key}`", *(f"`{value!r}`" for value in values.values())]
        for key, values in record["differences"].items()
    ]
    return markdown(["key", *labels.values()], lines)


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(markdown_row(cells) for cells in lines)
