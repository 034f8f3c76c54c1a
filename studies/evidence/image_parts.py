"""AP of the runs of a suite on parts of the validation set: kinds of images, and sizes of objects.

The parts are those of the nuclei (:file:`nuclei.yaml`): COCO calls 90 % of them small. The
predictions are read from the folders of the runs, and a small JSON of each finished run is kept
beside those that the suite keeps, so that a later call needs no folder. With the line ``finish`` of
that suite, compare has it made after each run::

    python -m studies.evidence.image_parts --suite SUITE --output DIR [--record | --run KEY]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from lambda_det.comparison.collect import origins_of
from lambda_det.comparison.controls import NAMED_STAGES, TRAINED_WITHOUT, ZEROED
from lambda_det.comparison.examples import validation_set
from lambda_det.comparison.results import built_config, result_of
from lambda_det.comparison.run import Run
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.statistics import paired_difference, spread
from lambda_det.comparison.suite import Suite, read_suite
from lambda_det.comparison.tables import interval
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.evaluation.detection_limits import COCO_LIMIT
from lambda_det.evaluation.metrics import TASK_NAMES
from lambda_det.io import read_json, write_json
from lambda_det.records import make_record, record_path, results_folder
from studies.evidence.parts import ALL, Parts, parts_of
from studies.tables import brief_table

_REMARK = "Sizes of objects and of images are in pixels of the file, before it is resized."
_COLUMNS = tuple(f"{task}_ap" for task in TASK_NAMES.values())


def parts_of_run(run: Run) -> dict[str, Parts] | None:
    """The parts of a finished run: under ``"whole"``, and under ``"zeroed"`` if the suite has this
    control. They are read from the JSON that is kept of them, or else from the run's folder.

    Returns:
        None if neither exists.

    Raises:
        InputError: the files are damaged, or of another run.
    """
    row = result_of(run)["row"]
    aps = {name: f"{name}_ap" for name in TASK_NAMES.values() if f"{name}_ap" in row}
    names = {"whole": ("", run.folder)}
    if run.zeroed and all(f"{column}_{ZEROED}" in row for column in aps.values()):
        names[ZEROED] = (f"_{ZEROED}", run.zeroed_folder)
    path = _kept_path(run)
    known = read_json(path) if path and os.path.isfile(path) else None
    found = _checked(known, path, names) if known is not None else None
    if found is None:
        files = {
            name: os.path.join(folder, "inference", DETECTIONS_FILE)
            for name, (_, folder) in names.items()
        }
        if not all(map(os.path.isfile, files.values())):
            return None
        print(f"{run.name} ...", file=sys.stderr)
        annotations = validation_set(built_config(run.folder))[0]
        limit = int(str(run.settings["TEST.DETECTIONS_PER_IMAGE"]))
        found = {name: parts_of(annotations, file, limit) for name, file in files.items()}
    for name, (ending, _) in names.items():
        for task, column in aps.items():
            ap, here = row[f"{column}{ending}"], found[name][ALL].get(column)
            if ap is None or here is None or abs(ap - here) <= 0.01:
                continue
            raise InputError(
                f"{path or run.folder}: {run.name} has a {task} AP of {ap:.2f}, but its parts are "
                f"of one with {here:.2f}; remove that file"
            )
    if path and found is not known:
        with writing(path):
            write_json(found, path, indent=None)
    return {name: found[name] for name in names}


def _checked(known: object, path: str, names: Mapping) -> dict[str, Parts] | None:
    """What is kept of the parts of a run; None if that was before a control was asked for.

    Raises:
        InputError: the file is of another kind.
    """
    if not isinstance(known, dict) or not all(
        isinstance(parts, dict) and isinstance(parts.get(ALL), dict) for parts in known.values()
    ):
        raise InputError(f"{path}: has no parts of a run; remove that file")
    return known if known.keys() >= names.keys() else None


def _kept_path(run: Run) -> str:
    """Path of the JSON with the parts of a run: ``runs/NAME_parts/KEY.json`` beside the JSON
    ``runs/NAME/KEY.json`` that the suite keeps; "" if it keeps none."""
    return run.kept and os.path.join(f"{_folder(run)}_parts", f"{run.key}.json")


def _folder(run: Run) -> str:
    """The folder of the JSON that the suite keeps."""
    return run.kept.removesuffix(f"{os.sep}{run.key}.json")


def rows_of(suite: Suite, found: Mapping[Run, Mapping[str, Parts]]) -> list[dict]:
    """One row for each set, part and model, in the form of a comparison's record."""
    values: dict[tuple[str, str, str], dict[str, dict[int, float | None]]] = {}
    sizes: dict[tuple[str, str], Mapping] = {}
    for run, of_run in found.items():
        for name, parts in of_run.items():
            control = TRAINED_WITHOUT if run.without else ZEROED if name == ZEROED else ""
            for part, numbers in parts.items():
                sizes.setdefault((run.set, part), numbers)
                of_part = values.setdefault((run.set, part, run.model), {})
                for column in _COLUMNS:
                    if column in numbers:
                        name_of = "_".join(filter(None, (column, control)))
                        of_part.setdefault(name_of, {})[run.seed] = numbers[column]
    rows = []
    for (set_name, part), size in sizes.items():
        set_label = suite.sets[set_name]
        label = f"{part} ({size['images']} images, {size['objects']} objects)"
        for model, model_label in suite.labels.items():
            own = values.get((set_name, part, model), {})
            finished = max((len(own[column]) for column in _COLUMNS if column in own), default=0)
            if not finished:  # at most its control
                continue
            over, cfg = suite.baselines[model], suite.configs[set_name, model]
            others = values.get((set_name, part, over), {}) if over != model else {}
            row: dict[str, object] = {
                "set": f"{set_name}/{part}" if set_name else part,
                "set_label": f"{set_label}, {label}" if len(suite.sets) > 1 else label,
                "model": model,
                "label": model_label,
                "depth": cfg.MODEL.LAMBDA_RESNET.DEPTH,
                "over": over if any(column in others for column in _COLUMNS) else None,
                "finished": finished,
            }
            if cfg.TEST.DETECTIONS_PER_IMAGE != COCO_LIMIT:
                row["detections_per_image"] = cfg.TEST.DETECTIONS_PER_IMAGE
            rows.append(row | _numbers(own, others))
    return rows


def _numbers(
    own: Mapping[str, Mapping[int, float | None]], others: Mapping[str, Mapping[int, float | None]]
) -> dict[str, object]:
    numbers: dict[str, object] = {}
    for column, by_seed in own.items():
        numbers[column] = spread(list(by_seed.values()))
    for column in _COLUMNS:
        whole, without = own.get(column, {}), own.get(f"{column}_{TRAINED_WITHOUT}", {})
        numbers[f"{column}_over_{TRAINED_WITHOUT}"] = paired_difference(whole, without)
        numbers[f"{column}_gain"] = paired_difference(whole, others.get(column, {}))
    return {column: value for column, value in numbers.items() if value is not None}


def noise_floor(suite: Suite, found: Mapping[Run, Mapping[str, Parts]]) -> str:
    """Say how far apart the trainings of SE and of λ without res4 and res5 are, in all images: they
    are of one network, so that what parts them is the draw of its weights. "" without these."""
    said = []
    for column in _COLUMNS:
        by_model: dict[str, dict[int, float | None]] = {"se": {}, "lambda": {}}
        for run, parts in found.items():
            cfg = suite.configs[run.set, run.model]
            if run.without and run.set == next(iter(suite.sets)):
                of_model = by_model.get(cfg.MODEL.LAMBDA_RESNET.VARIANT, {})
                of_model[run.seed] = parts["whole"][ALL].get(column)
        if difference := paired_difference(by_model["lambda"], by_model["se"]):
            said.append(f"{interval(difference)} {column.removesuffix('_ap')} AP")
    if not said:
        return ""
    return (
        f"Trained without {NAMED_STAGES}, SE and λ are one network, drawn with other numbers; λ − "
        f"SE is {' and '.join(said)} there in all images, which shows the noise."
    )


def record_of(suite: Suite, command: str) -> dict:
    """Make the record of a suite's finished runs.

    Raises:
        InputError: no run has finished, the runs have no parts, or a file of one is damaged.
    """
    finished = [run for run in suite.runs if state_of(run) == FINISHED]
    if not any(not run.without for run in finished):
        raise InputError(f"suite {suite.name}: no run has finished; run the suite first")
    parts = {run: parts_of_run(run) for run in finished}
    found = {run: of_run for run, of_run in parts.items() if of_run is not None}
    lost = [run.name for run in finished if run not in found]
    if lost:
        print(
            f"left out, since their folders are gone before their parts were kept: "
            f"{', '.join(lost)}; to train them again, remove their JSON in {_folder(finished[0])}",
            file=sys.stderr,
        )
    rows = rows_of(suite, found)
    if not rows:
        raise InputError(f"suite {suite.name}: no finished run has a folder or kept parts")
    remarks = [_REMARK, noise_floor(suite, found)]
    return {
        **make_record(command, rows, suite.seeds, with_gpu=False),
        "suite": suite.name,
        "finished": len(found),
        "planned": len(suite.runs),
        "sets": {row["set"]: row["set_label"] for row in rows},
        "remarks": [remark for remark in remarks if remark],
        **({"left_out": lost} if lost else {}),
        **origins_of([result_of(run)["finished"]["record"] for run in found]),
    }


def keep_parts(suite: Suite, key: str) -> None:
    """Keep the parts of one finished run, as the suite's ``finish`` does after each.

    Raises:
        InputError: the suite has no such run, it has not finished, or its folder is gone.
    """
    runs = [run for run in suite.runs if run.key == key]
    if not runs or state_of(runs[0]) != FINISHED or parts_of_run(runs[0]) is None:
        raise InputError(f"--run {key}: is no finished run of suite {suite.name} with its folder")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suite", required=True, metavar="YAML", help="path of the suite")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of its comparison")
    parser.add_argument("--run", metavar="KEY", help="keep the parts of this run only, no table")
    parser.add_argument("--record", action="store_true", help="also write results/SUITE_parts.json")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    suite = read_suite(args.suite, args.output)
    for run in suite.runs:
        if share := run.settings["DATASETS.VAL_SHARE"]:
            raise InputError(
                f"suite {suite.name}: DATASETS.VAL_SHARE {share}: parts are of a validation split "
                "in a json of its own, which check_data --write makes"
            )
    if args.run:
        keep_parts(suite, args.run)
        return 0
    words = f"--suite {args.suite} --output {args.output}"
    words += " --record" if args.record else ""
    record = record_of(suite, f"python -m studies.evidence.image_parts {words}")
    print(brief_table(record, zeroed=True))
    if args.record:
        if record["finished"] < record["planned"]:
            raise InputError(
                f"--record: {record['finished']} of {record['planned']} runs have finished and "
                "have parts; run the suite first"
            )
        path = record_path(str(results_folder()), f"{suite.name}_parts")
        with writing(path):
            write_json(record, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
