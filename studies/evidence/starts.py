"""What weights to start from are worth: the runs of one comparison over those of another.

Both suites have the same data, models, seeds and recipe, as far as their records know it; the runs
of the first start from random weights, those of the second from weights that a ``pretrain:`` step
has made. Their records are read::

    python -m studies.evidence.starts nuclei nuclei_pretrained [--record]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from lambda_det.comparison.data_digest import DATA
from lambda_det.comparison.run_files import FINISHED
from lambda_det.comparison.speed import SPEED_SETTINGS
from lambda_det.comparison.statistics import paired_difference, spread
from lambda_det.comparison.tables import interval, markdown, plus_minus
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation.metrics import TASK_NAMES
from lambda_det.io import read_json, write_json
from lambda_det.records import make_record, provenance, record_path, results_folder

_SAME = (
    "iterations", "images_per_iteration", "base_lr", "train_size", "depth", "variant", "set_label",
    "counted_at", "detections_per_image", SPEED_SETTINGS,
)  # fmt: skip
COLUMNS = tuple(f"{task}_ap" for task in TASK_NAMES.values())


def rows_of(scratch: Mapping, pretrained: Mapping) -> list[dict]:
    """One row for each model that both records have: AP from both starts, and their difference,
    paired by seed.

    Args:
        scratch, pretrained: records of comparisons without sets, or with a single one.

    Raises:
        InputError: a record is of another kind or has several sets; the records have no model in
            common; or the data or the recipes of a model differ.
    """
    for record in (scratch, pretrained):
        _check(record)
    data, other_data = scratch.get(DATA), pretrained.get(DATA)
    if data and other_data and data != other_data:
        raise InputError(
            f"{scratch['suite']} and {pretrained['suite']} are of different data: {_images(data)} "
            f"and {_images(other_data)}"
        )
    rows = []
    for row in pretrained["rows"]:
        other = next((r for r in scratch["rows"] if r["model"] == row["model"]), None)
        if other is None:
            continue
        for key in _SAME:
            if key not in row.keys() & other.keys() and key != "detections_per_image":
                continue  # an earlier version did not record it
            key, was, now = _first_difference(key, other.get(key), row.get(key))
            if was != now:
                raise InputError(
                    f"model {row['model']}: {key} is {was!r} in {scratch['suite']} and {now!r} in "
                    f"{pretrained['suite']}; the recipes must be the same"
                )
        made: dict[str, object] = {"model": row["model"], "label": row["label"]}
        for column in COLUMNS:
            before, after = (_by_seed(r, row["model"], column) for r in (scratch, pretrained))
            seeds = sorted(before.keys() & after.keys())
            if not seeds:
                continue
            made |= {
                f"{column}_scratch": spread([before[seed] for seed in seeds]),
                f"{column}_pretrained": spread([after[seed] for seed in seeds]),
                f"{column}_gain": paired_difference(after, before),
            }
        rows.append(made)
    if not rows:
        raise InputError(f"{scratch['suite']} and {pretrained['suite']} have no model in common")
    return rows


def _check(record: Mapping) -> None:
    """Check that a record is of a comparison, with one set at most."""
    try:
        rows = [row["label"] for row in record["rows"] if row["model"] and row["iterations"]]
        runs = [run["state"] for run in record["runs"] if run["model"] and run["seed"] is not None]
        whole = record["suite"] and rows and runs
    except (KeyError, TypeError, AttributeError):
        whole = None
    if not whole:
        command = record.get("command") if isinstance(record, Mapping) else None
        raise InputError(f"a record that {command or 'no command'!r} made is of no comparison")
    if len(sets := record.get("sets", {})) > 1:
        raise InputError(
            f"{record['suite']} has the sets {', '.join(sets)}; the starts of one set are compared"
        )


def _first_difference(key: str, was: object, now: object) -> tuple[str, object, object]:
    """The key and its values; of settings, the first one that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in (*was, *now):
            if was.get(name) != now.get(name):
                return name, was.get(name), now.get(name)
    return key, was, now


def _images(data: Mapping) -> str:
    return ", ".join(f"{name} with {of['images']} images" for name, of in data.items())


def _by_seed(record: Mapping, model: str, column: str) -> dict[int, float]:
    """Seed -> number of the finished runs of a model, without its control trainings."""
    return {
        run["seed"]: run[column]
        for run in record["runs"]
        if run["model"] == model
        and "without" not in run
        and run["state"] == FINISHED
        and run.get(column) is not None
    }


def starts_table(record: Mapping) -> str:
    """Make the table of a record of this study."""
    rows = record["rows"]
    columns = [column for column in COLUMNS if any(f"{column}_gain" in row for row in rows)]
    headers = ["backbone"]
    for column in columns:
        task = column.removesuffix("_ap")
        headers += [f"{task} AP, from random weights", "from pretrained ones", "difference"]
    lines = [
        [row["label"]]
        + [
            cell
            for column in columns
            for cell in (
                plus_minus(row.get(f"{column}_scratch")),
                plus_minus(row.get(f"{column}_pretrained")),
                interval(row.get(f"{column}_gain")),
            )
        ]
        for row in rows
    ]
    legend = (
        f"AP in percent, mean ± sample standard deviation of {len(record['seeds'])} seeds; "
        "difference: paired by seed, with its 95 % interval."
    )
    return f"{markdown(headers, lines)}\n\n{legend}\n\n{provenance(record)}"


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("scratch", "pretrained"):
        parser.add_argument(name, metavar=name.upper(), help=f"results/{name.upper()}.json")
    parser.add_argument(
        "--record", action="store_true", help="also write results/SCRATCH_starts.json"
    )
    args = parser.parse_args(argv)
    results, names = str(results_folder()), (args.scratch, args.pretrained)
    scratch, pretrained = (read_json(record_path(results, name, "name")) for name in names)
    rows = rows_of(scratch, pretrained)
    seeds = [seed for seed in scratch["seeds"] if seed in pretrained["seeds"]]
    command = " ".join(["python -m studies.evidence.starts", *names, *["--record"] * args.record])
    record = make_record(command, rows, seeds, with_gpu=False)
    print(starts_table(record))
    if args.record:
        path = record_path(results, f"{args.scratch}_starts")
        with writing(path):
            write_json(record, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
