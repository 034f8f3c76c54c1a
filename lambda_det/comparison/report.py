"""Writes the results of a comparison: results.json, the tables of results.md, and report.html,
which has tables, plots and examples in one self-contained file."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
from collections.abc import Mapping, Sequence

import jinja2
from markupsafe import Markup

from lambda_det.comparison import plots, tables
from lambda_det.comparison.controls import controls_line, gain_remark
from lambda_det.comparison.examples import IOU, SCORE, Example, examples_of
from lambda_det.comparison.notes import gains_line, notes, unfinished_runs
from lambda_det.comparison.processes import locked
from lambda_det.comparison.results import result_of
from lambda_det.comparison.run import Run
from lambda_det.comparison.run_files import FAILED, FINISHED, write_facts
from lambda_det.comparison.suite import Suite
from lambda_det.comparison.tables import sets_of, signed, tasks_of
from lambda_det.errors import InputError, writing
from lambda_det.evaluation.metrics import TASK_NAMES
from lambda_det.io import write_bytes
from lambda_det.records import provenance

TEMPLATE = "report.html.jinja"
MOST_CLASSES = 24

Results = dict[tuple[str, str], dict[int, Mapping]]
"""(set, model) -> seed -> result, as returned by
:func:`~lambda_det.comparison.results.result_of`."""


def write_results(output: str, suite: Suite, states: Mapping[Run, str], record: Mapping) -> None:
    """Write ``results.json``, ``results.md``, ``report.html`` and, as soon as a run has finished,
    ``speed_accuracy.png``.

    Raises:
        InputError: a file of a finished run is damaged, or one of the results cannot be written;
            the previous version of that file is then kept.
    """
    contents = {"results.md": tables.results_markdown(record).encode()}
    draw = plots.trade_off_figure(record, ["inference_ms_per_image"])
    if draw is not None:
        contents["speed_accuracy.png"] = plots.png(draw)
    contents["report.html"] = html_report(suite, states, record).encode()
    with locked(output):  # waits for another comparison in this folder
        write_facts(record, output, "results.json")
        for name, content in contents.items():
            path = os.path.join(output, name)
            with writing(path):
                write_bytes(content, path)
        if draw is None:  # the plot of an earlier call is of other numbers
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(output, "speed_accuracy.png"))


def html_report(suite: Suite, states: Mapping[Run, str], record: Mapping) -> str:
    """Make the HTML page of a comparison from the states of its runs and its record.

    Raises:
        InputError: a file of a finished run is damaged.
    """
    results: Results = {(set_name, model): {} for set_name, model in suite.configs}
    for run, state in states.items():
        if state == FINISHED and not run.without:
            results[run.set, run.model][run.seed] = result_of(run)
    losses = {
        label: {
            model: [result["losses"] for result in results[name, model].values()]
            for model in suite.labels
        }
        for name, label in suite.sets.items()
    }
    return _template().render(
        title=f"Comparison: {suite.name}",
        record=record,
        origin=_origin(record),
        cards=gain_cards(record),
        unfinished=unfinished_runs(record),
        sets=sets_of(record),
        notes=" ".join(notes(record)),
        trade_offs=_svg(
            plots.trade_off_figure(record, list(plots.TRADE_OFFS)),
            "AP against inference time and against parameters",
        ),
        losses=_svg(plots.loss_figure(losses, record), "training loss"),
        classes=_classes(suite, results, record),
        examples=_examples(suite, states),
        labels=list({row["model"]: row["label"] for row in record["rows"]}.values()),
        provenance=provenance(record),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        tables.control_cells, tables.control_headers, tables.cost, tables.cost_columns,
        tables.found_cells, tables.found_headers, tables.plus_minus, tables.published_ap,
        tables.published_sizes, tables.published_tasks, controls_line, gains_line, remarks, repr,
        signed, tasks_of,
    ):  # fmt: skip
        environment.globals[function.__name__] = function
    environment.globals |= {
        "base64": lambda content: base64.b64encode(content).decode(),
        "number": lambda value: "–" if value is None else f"{value:.1f}",
        "DETAILS": tables.DETAILS, "SIZES": tables.SIZES, "MOST_CLASSES": MOST_CLASSES,
        "SCORE": SCORE, "IOU": IOU,
    }  # fmt: skip
    return environment.get_template(TEMPLATE)


def gain_cards(record: Mapping) -> list[dict[str, object]]:
    """The cards at the top of the report: each model's gain in AP, its interval, and a remark on
    what the gain does not say."""
    cards = []
    for label, rows in sets_of(record):
        of_model = {row["model"]: row for row in rows}
        for row, task in itertools.product(rows, tasks_of(rows)):
            if gain := row.get(f"{task}_ap_gain"):
                baseline = of_model[row["over"]]
                cards.append(
                    {
                        "set": label,
                        "what": f"{task} AP, {row['label']} over {baseline['label']}",
                        "gain": gain,
                        "certainty": _certainty(gain),
                        "remark": gain_remark(row, baseline, task),
                    }
                )
    return cards


def _certainty(value: Mapping) -> str:
    if value["low"] is None:
        return "one seed: no interval"
    holds = ", which holds 0" if value["low"] <= 0 <= value["high"] else ""
    number = len(value["values"])
    return f"95 %: {signed(value['low'])} to {signed(value['high'])}{holds}; {number} seeds"


def remarks(run: Mapping) -> str:
    """The remarks beside a run in the table of runs: why it failed, and how it was trained."""
    found = [run["reason"]] if run["state"] == FAILED else []
    if run["state"] == FINISHED and run["resumed"]:
        found.append("resumed from a checkpoint")
    if "without" in run:
        found.append(f"trained without {' and '.join(run['without'])}")
    return "; ".join(found)


def _origin(record: Mapping) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    machine = record["hardware"]
    device = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    commit = f", commit {record['commit']}" if record["commit"] else ""
    return f"{record['date']}, {device}{commit} · {versions}"


def _svg(draw: plots.Draw | None, description: str) -> Markup | None:
    return None if draw is None else Markup(plots.svg(draw, description))


def _classes(suite: Suite, results: Results, record: Mapping) -> list[tuple[str, Markup]]:
    """Pairs of a set's label and the plot of its classes, for sets that have one."""
    drawn = []
    for name, label in suite.sets.items():
        gains = {task: class_gains(suite, results, name, task) for task in TASK_NAMES.values()}
        draw = plots.class_figure(most_different(gains), record)
        drawn.append((label, _svg(draw, f"{label} AP of each class")))
    return [(label, plot) for label, plot in drawn if plot is not None]


def class_gains(
    suite: Suite, results: Results, set_name: str, task: str
) -> dict[str, dict[str, list[float]]]:
    """Model -> class -> its AP on a set minus the baseline's, in percentage points, one number for
    each seed that both have finished."""
    gains: dict[str, dict[str, list[float]]] = {}
    for model, baseline in suite.baselines.items():
        own, others = results[set_name, model], results[set_name, baseline]
        for seed in own.keys() & others.keys() if model != baseline else ():
            other = others[seed]["classes"].get(task, {})
            for name, metrics in own[seed]["classes"].get(task, {}).items():
                values = metrics["AP"], other.get(name, {}).get("AP")
                if None not in values:
                    of_class = gains.setdefault(model, {}).setdefault(name, [])
                    of_class.append(values[0] - values[1])
    return gains


def most_different(gains: Mapping[str, Mapping[str, Mapping]]) -> dict[str, dict[str, dict]]:
    """Keep the :data:`MOST_CLASSES` classes of task -> model -> class -> differences whose mean
    differences are largest, whichever the sign, task and model."""
    largest: dict[str, float] = {}
    for of in (of for models in gains.values() for of in models.values()):
        for name, values in of.items():
            largest[name] = max(largest.get(name, 0), abs(sum(values) / len(values)))
    kept = set(sorted(largest, key=largest.get, reverse=True)[:MOST_CLASSES])
    return {
        task: {m: {c: values for c, values in of.items() if c in kept} for m, of in models.items()}
        for task, models in gains.items()
    }


def _examples(suite: Suite, states: Mapping[Run, str]) -> list[tuple[str, Sequence[Example], str]]:
    """For each set its label, its examples, and the reason if they cannot be made."""
    found: list[tuple[str, Sequence[Example], str]] = []
    for name, label in suite.sets.items():
        try:
            if examples := examples_of(suite, states, name):
                found.append((label, examples, ""))
        except InputError as error:
            found.append((label, (), str(error)))
    return found
