"""report.html of a comparison: tables, pictures and examples in one file that needs no other."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from lambda_det.comparison import plots
from lambda_det.comparison.controls import controls_line
from lambda_det.comparison.examples import IOU, SCORE, examples_of
from lambda_det.comparison.kept import class_metrics_of, losses_of
from lambda_det.comparison.notes import gains_line, notes, unfinished_runs
from lambda_det.comparison.page import figure, page, picture
from lambda_det.comparison.report_tables import (
    ap_table,
    cost_table,
    difference_section,
    every_metric,
    gain_cards,
    runs_table,
)
from lambda_det.comparison.run_files import FINISHED
from lambda_det.comparison.suite import Run, Suite
from lambda_det.comparison.tables import sets_of
from lambda_det.errors import InputError
from lambda_det.evaluation.metrics import TASK_NAMES
from lambda_det.records import provenance

MOST_CLASSES = 24


def html_report(suite: Suite, states: Mapping[Run, str], record: Mapping) -> str:
    """The page.

    Args:
        suite: of :func:`~lambda_det.comparison.suite.read_suite`.
        states: of :func:`~lambda_det.comparison.running.execute`.
        record: of :func:`~lambda_det.comparison.collect.comparison_record`.

    Raises:
        InputError: a finished run's file is broken.
    """
    title = f"Comparison: {suite.name}"
    parts = [f"<header><h1>{escape(title)}</h1>", f"<p class=soft>{_origin(record)}</p></header>"]
    parts += [gain_cards(record), *_unfinished(record)]
    for label, rows in sets_of(record):
        parts.append(f"<h2>{escape(label or 'Box and mask AP')}</h2>")
        parts.append(ap_table(rows))
        for line in filter(None, (gains_line(rows), controls_line(rows))):
            parts.append(f"<p class=note>{escape(line)}</p>")
        parts += [every_metric(rows), "<h3>Cost</h3>", cost_table(rows)]
    parts.append(f"<p class=note>{escape(' '.join(notes(record)))}</p>")
    parts += _trade_offs(record) + _losses(suite, states, record)
    parts += _classes(suite, states, record) + _examples(suite, states)
    parts += difference_section(record)
    parts += ["<h2>Runs</h2>", runs_table(record)]
    parts.append(f"<p class=soft>{_code(provenance(record))}</p>")
    return page(title, parts)


def _origin(record: Mapping) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
    machine = (
        record["hardware"]["gpu"]
        or f"{record['hardware']['cpu']}, {record['hardware']['cores']} cores"
    )
    commit = f", commit {record['commit']}" if record["commit"] else ""
    return escape(f"{record['date']}, {machine}{commit} · {versions}")


def _unfinished(record: Mapping) -> list[str]:
    lines = unfinished_runs(record)
    if not lines:
        return []
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<h2>Not finished</h2><p>This is missing from what follows.</p><ul>{items}</ul>"]


def _trade_offs(record: Mapping) -> list[str]:
    draw = plots.trade_off_figure(record, list(plots.TRADE_OFFS))
    if draw is None:
        return []
    image = plots.svg(draw, "AP against inference time and against parameters")
    caption = "Mean over the seeds; bars: sample standard deviation. Better is up and left."
    return ["<h2>AP against time and size</h2>", figure(image, caption)]


def _losses(suite: Suite, states: Mapping[Run, str], record: Mapping) -> list[str]:
    curves: dict[str, dict[str, list[dict[int, float]]]] = {}
    for set_name, label in suite.sets.items():
        curves[label] = {
            model: [losses_of(run) for run in _finished(states, set_name, model)]
            for model in suite.labels
        }
    draw = plots.loss_figure(curves, record)
    if draw is None:
        return []
    caption = "Median of the last 20 iterations; mean over the seeds, band from least to most."
    return ["<h2>Training loss</h2>", figure(plots.svg(draw, "training loss"), caption)]


def _classes(suite: Suite, states: Mapping[Run, str], record: Mapping) -> list[str]:
    parts = []
    for set_name, label in suite.sets.items():
        gains = {task: class_gains(suite, states, set_name, task) for task in TASK_NAMES.values()}
        draw = plots.class_figure(_most_different(gains), record)
        if draw is not None:
            parts += [f"<h3>{escape(label)}</h3>"] if label else []
            parts.append(figure(plots.svg(draw, f"{label} AP of each class")))
    if not parts:
        return []
    caption = (
        "AP of each class against the baseline with the same seed, in points; bars: mean, dots: "
        f"seeds. With more than {MOST_CLASSES} classes, those that differ most."
    )
    return ["<h2>Classes</h2>", f"<p class=soft>{caption}</p>", *parts]


def class_gains(
    suite: Suite, states: Mapping[Run, str], set_name: str, task: str
) -> dict[str, dict[str, list[float]]]:
    """Model -> class -> AP minus the baseline's, for each seed that both have finished."""
    gains: dict[str, dict[str, list[float]]] = {}
    for model, baseline in suite.baselines.items():
        if model == baseline:
            continue
        own, other = (
            {run.seed: class_metrics_of(run).get(task, {}) for run in runs}
            for runs in (_finished(states, set_name, m) for m in (model, baseline))
        )
        of = gains.setdefault(model, {})
        for seed in own.keys() & other.keys():
            for name, metrics in own[seed].items():
                values = metrics["AP"], other[seed].get(name, {}).get("AP")
                if None not in values:
                    of.setdefault(name, []).append(values[0] - values[1])
    return {model: of for model, of in gains.items() if of}


def _most_different(gains: Mapping[str, Mapping[str, Mapping]]) -> dict[str, dict[str, dict]]:
    """The same with the classes whose means are largest, whichever the sign, task and model."""
    largest: dict[str, float] = {}
    for of in (of for models in gains.values() for of in models.values()):
        for name, values in of.items():
            largest[name] = max(largest.get(name, 0), abs(sum(values) / len(values)))
    kept = set(sorted(largest, key=largest.get, reverse=True)[:MOST_CLASSES])
    return {
        task: {m: {c: values for c, values in of.items() if c in kept} for m, of in models.items()}
        for task, models in gains.items()
    }


def _examples(suite: Suite, states: Mapping[Run, str]) -> list[str]:
    parts = []
    for set_name, label in suite.sets.items():
        try:
            examples = examples_of(suite, states, set_name)
        except InputError as error:
            parts.append(f"<p class=soft>{escape(label)} No examples: {escape(str(error))}</p>")
            continue
        if label and examples:
            parts.append(f"<h3>{escape(label)}</h3>")
        for example in examples:
            tiles = "".join(
                figure(picture(content, f"{example.file_name}: {caption}"), escape(caption))
                for caption, content in example.tiles
            )
            parts.append(
                f"<p>{escape(example.reason)} <small>{escape(example.file_name)}</small></p>"
            )
            parts.append(f"<div class=tiles>{tiles}</div>")
    if not parts:
        return []
    caption = (
        "For every model the validation image on which it has the largest lead over its baseline "
        "in objects found, and the one with the largest lag: extremes, and no sample. Detections "
        f"with a score from {SCORE}; found: the right class at IoU {IOU}."
    )
    return ["<h2>Where the models differ</h2>", f"<p class=soft>{caption}</p>", *parts]


def _code(markdown: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    pieces = escape(markdown).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))


def _finished(states: Mapping[Run, str], set_name: str, model: str) -> list[Run]:
    return [
        run
        for run, state in states.items()
        if (run.set, run.model, run.without, state) == (set_name, model, False, FINISHED)
    ]
