"""AP of the runs of a suite on parts of the validation set: kinds of images, and sizes of objects.

The parts are those of the nuclei (:file:`nuclei.yaml`): COCO calls 90 % of them small. The
predictions are read from the folders of the runs, and a small JSON of each finished run is kept
beside those that the suite keeps, so that a later call needs no folder::

    python -m studies.evidence.image_parts --suite SUITE --output DIR [--record]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from lambda_det.comparison.controls import TRAINED_WITHOUT, ZEROED
from lambda_det.comparison.examples import validation_set
from lambda_det.comparison.results import built_config, result_of
from lambda_det.comparison.run import Run
from lambda_det.comparison.run_files import FINISHED, state_of
from lambda_det.comparison.statistics import paired_difference, spread
from lambda_det.comparison.suite import Suite, read_suite
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation.coco import DETECTIONS_FILE
from lambda_det.evaluation.counting import choose_backend, evaluation_of
from lambda_det.evaluation.counting import run as run_evaluation
from lambda_det.evaluation.detection_limits import counted_detections
from lambda_det.evaluation.detections import Detections, read_detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import TASK_NAMES, metrics_from_counts
from lambda_det.io import read_json, write_json
from lambda_det.records import make_record, record_path, results_folder
from studies.tables import brief_table

ALL = "all"
KINDS = {"256×256": 256, "up to 347×260": 347, "360×360": 360, "larger": 10**6}
"""Kind of an image -> the most pixels of its longer side. Images of 256×256 and of 360×360 are dark
with bright nuclei, most between show stained tissue, the larger ones are of several kinds."""
SIZES = {"objects below 12 px": "APs", "of 12 to 24 px": "APm", "from 24 px": "APl"}
"""Size of an object, which is the square root of its area, -> its metric under :data:`_AREAS`."""
_AREAS = [[0, 1e10], [0, 12**2], [12**2, 24**2], [24**2, 1e10]]

Parts = dict[str, dict[str, float | None]]
"""Part -> its numbers of images and objects, ``box_ap`` and ``mask_ap`` in percent (None without an
object)."""


def kind_of(height: int, width: int) -> str:
    """The kind of an image, a key of :data:`KINDS`."""
    return next(kind for kind, side in KINDS.items() if max(height, width) <= side)


def parts_of(annotations: str, predictions: str, max_detections: int = 100) -> Parts:
    """Evaluate detections on all images, on each kind of image and on each size of object.

    Args:
        annotations: path of a COCO instances json.
        predictions: path of a json in COCO's results format.
        max_detections: number of detections in an image that count, COCO's 100 or more.

    Raises:
        InputError: a file is missing or not valid.
    """
    truth = GroundTruth.from_file(annotations)
    found = Detections(read_detections(predictions), truth, f"predictions {predictions}")
    sides = {number: (height, width) for number, height, width in truth.images.values()}
    images = {kind: [i for i, side in sides.items() if kind_of(*side) == kind] for kind in KINDS}
    images = {ALL: [*sides], **images}
    objects = [one for one in truth.coco("bbox").anns.values() if not one["iscrowd"]]
    parts: Parts = {}
    for kind, chosen in images.items():
        inside = {*chosen}
        count = sum(one["image_id"] in inside for one in objects)
        parts[kind] = {"images": len(chosen), "objects": count}
    for size, (low, high) in zip(SIZES, _AREAS[1:], strict=True):
        of_size = [one["image_id"] for one in objects if low <= one["area"] < high]
        parts[size] = {"images": len({*of_size}), "objects": len(of_size)}
    for task in (task for task in found.tasks if task in TASK_NAMES):
        column = f"{TASK_NAMES[task]}_ap"
        for kind, chosen in images.items():
            if not chosen:
                parts[kind][column] = None
                continue
            evaluation = evaluation_of(choose_backend(), truth.coco(task), found.coco(task), task)
            evaluation.params.maxDets = counted_detections(found, max_detections)
            evaluation.params.imgIds = chosen
            evaluation.params.areaRng = _AREAS
            run_evaluation(evaluation)
            counts = evaluation.eval["precision"], evaluation.eval["recall"]
            metrics = metrics_from_counts(*counts, task=task)
            parts[kind][column] = metrics["AP"]
            if kind == ALL:
                for size, name in SIZES.items():
                    parts[size][column] = metrics[name]
    return parts


def parts_of_run(run: Run) -> dict[str, Parts]:
    """The parts of a finished run: under ``"whole"``, and under ``"zeroed"`` if the suite has this
    control. They are read from the JSON that is kept of them, or else from the run's folder.

    Raises:
        InputError: the files are missing, or of another run.
    """
    row = result_of(run)["row"]
    path = _kept_path(run)
    found = read_json(path) if path and os.path.isfile(path) else None
    names = {"whole": ("", run.folder)}
    if run.zeroed:
        names[ZEROED] = (f"_{ZEROED}", run.zeroed_folder)
    if found is None:
        print(f"{run.name} ...", file=sys.stderr)
        annotations = validation_set(built_config(run.folder))[0]
        limit = int(str(run.settings["TEST.DETECTIONS_PER_IMAGE"]))
        found = {
            name: parts_of(annotations, os.path.join(folder, "inference", DETECTIONS_FILE), limit)
            for name, (_, folder) in names.items()
        }
    for name, (ending, _) in names.items():
        for task in TASK_NAMES.values():
            known, here = row[f"{task}_ap{ending}"], found[name][ALL][f"{task}_ap"]
            if abs(known - here) > 0.01:
                raise InputError(
                    f"{path or run.folder}: {run.name} has a {task} AP of {known:.2f}, but its "
                    f"parts are of one with {here:.2f}; remove that file"
                )
    if path and not os.path.isfile(path):
        with writing(path):
            write_json(found, path, indent=None)
    return found


def _kept_path(run: Run) -> str:
    """Path of the JSON with the parts of a run: ``runs/NAME_parts/KEY.json`` beside the JSON
    ``runs/NAME/KEY.json`` that the suite keeps; "" if it keeps none."""
    folder = run.kept.removesuffix(f"{os.sep}{run.key}.json")
    return run.kept and os.path.join(f"{folder}_parts", f"{run.key}.json")


def rows_of(suite: Suite, found: Mapping[Run, Mapping[str, Parts]]) -> list[dict]:
    """One row for each set, part and model, in the form of a comparison's record."""
    values: dict[tuple[str, str, str], dict[str, dict[int, float | None]]] = {}
    sizes: dict[str, Mapping] = {}
    for run, of_run in found.items():
        for name, parts in of_run.items():
            control = TRAINED_WITHOUT if run.without else ZEROED if name == ZEROED else ""
            for part, numbers in parts.items():
                sizes.setdefault(part, numbers)
                of_part = values.setdefault((run.set, part, run.model), {})
                for task in TASK_NAMES.values():
                    column = "_".join(filter(None, (f"{task}_ap", control)))
                    of_part.setdefault(column, {})[run.seed] = numbers.get(f"{task}_ap")
    rows = []
    for set_name, set_label in suite.sets.items():
        for part, size in sizes.items():
            label = f"{part} ({size['images']} images, {size['objects']} objects)"
            for model, model_label in suite.labels.items():
                own = values.get((set_name, part, model))
                if own is None:
                    continue
                over = suite.baselines[model]
                row: dict[str, object] = {
                    "set": f"{set_name}/{part}" if set_name else part,
                    "set_label": f"{set_label}, {label}" if len(suite.sets) > 1 else label,
                    "model": model,
                    "label": model_label,
                    "depth": suite.configs[set_name, model].MODEL.LAMBDA_RESNET.DEPTH,
                    "over": None if over == model else over,
                    "finished": len(own.get("box_ap", {})),
                }
                others = values.get((set_name, part, over), {}) if over != model else {}
                rows.append(row | _numbers(own, others))
    return rows


def _numbers(
    own: Mapping[str, Mapping[int, float | None]], others: Mapping[str, Mapping[int, float | None]]
) -> dict[str, object]:
    numbers: dict[str, object] = {}
    for column, by_seed in own.items():
        numbers[column] = spread(list(by_seed.values()))
    for task in TASK_NAMES.values():
        column = f"{task}_ap"
        without = own.get(f"{column}_{TRAINED_WITHOUT}", {})
        numbers[f"{column}_over_{TRAINED_WITHOUT}"] = paired_difference(own[column], without)
        numbers[f"{column}_gain"] = paired_difference(own[column], others.get(column, {}))
    return {column: value for column, value in numbers.items() if value is not None}


def record_of(suite: Suite, command: str) -> dict:
    """Make the record of a suite's finished runs.

    Raises:
        InputError: no run has finished, or the files of one are missing.
    """
    finished = [run for run in suite.runs if state_of(run) == FINISHED]
    if not any(not run.without for run in finished):
        raise InputError(f"suite {suite.name}: no run has finished; run the suite first")
    rows = rows_of(suite, {run: parts_of_run(run) for run in finished})
    record = make_record(command, rows, suite.seeds, with_gpu=False)
    return {
        **record,
        "suite": suite.name,
        "finished": len(finished),
        "planned": len(suite.runs),
        "sets": {row["set"]: row["set_label"] for row in rows},
    }


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suite", required=True, metavar="YAML", help="path of the suite")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of its comparison")
    parser.add_argument("--record", action="store_true", help="also write results/SUITE_parts.json")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    suite = read_suite(args.suite, args.output)
    words = f"--suite {args.suite} --output {args.output}"
    words += " --record" if args.record else ""
    record = record_of(suite, f"python -m studies.evidence.image_parts {words}")
    print(brief_table(record, zeroed=True))
    if args.record:
        if record["finished"] < record["planned"]:
            raise InputError(
                f"--record: {record['finished']} of {record['planned']} runs have finished; run "
                "the suite first"
            )
        path = record_path(str(results_folder()), f"{suite.name}_parts")
        with writing(path):
            write_json(record, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
