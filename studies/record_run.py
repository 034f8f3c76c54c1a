"""Record a finished run in results/, or generate the documents' tables from the records again."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from detectron2.config import CfgNode

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.config import flat
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation.metrics import AP_METRICS, METRICS_FILE, TASK_NAMES
from lambda_det.evaluation.run_folder import iteration_times, last_norms, zeroed_folder
from lambda_det.io import read_json, read_text, write_json
from lambda_det.records import make_record, record_path
from studies.documents import document_with_tables, documents

PROJECT = Path(__file__).resolve().parent.parent


def row_of_run(folder: str, *, without: str = "") -> dict:
    """Make a record's row of a finished run of ``train_net``: its AP in percent and its speed.

    If the run was also evaluated with the residual branches of res4 and res5 set to zero, the row
    has ``box_ap_zeroed`` and ``mask_ap_zeroed``. If the run logged its last norms, the row has
    ``last_norm`` for each stage.

    Args:
        folder: OUTPUT_DIR of the run.
        without: OUTPUT_DIR of the same run, trained with these branches held at 0. It gives
            ``box_ap_trained_without`` and ``mask_ap_trained_without``. Empty means none.

    Raises:
        InputError: a folder has no finished run, or the run in ``without`` has another config.
    """
    cfg = CfgNode.load_cfg(read_text(folder, "config.yaml"))
    metrics = _metrics(folder)
    times = iteration_times(folder)
    row = {
        "variant": cfg.MODEL.LAMBDA_RESNET.VARIANT,
        "depth": cfg.MODEL.LAMBDA_RESNET.DEPTH,
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_iteration": cfg.SOLVER.IMS_PER_BATCH,
        "train_s_per_iteration": {
            "median": round(statistics.median(times), 3),
            "min": round(min(times), 3),
            "max": round(max(times), 3),
        },
    }
    for task, values in metrics.items():
        for name in AP_METRICS:
            value = values[name]
            row[f"{TASK_NAMES[task]}_{name.lower()}"] = None if value is None else round(value, 2)
    row |= _zeroed(folder)
    if without:
        _check_without(without, cfg)
        row |= _control(without, "trained_without")
    if norms := last_norms(folder):
        row["last_norm"] = norms
    return row


def controls_text(row: Mapping, recorded: Mapping) -> str:
    """Explain in words what the control experiments say about the AP of a run.

    Args:
        row: the row of the run from :func:`row_of_run`, with its zeroed evaluation.
        recorded: the row of the recorded run that has ``box_ap_trained_without``.
    """
    tasks = [task for task in TASK_NAMES.values() if f"{task}_ap_zeroed" in row]
    stages = " and ".join(CONTROLLED_STAGES)

    def listing(column: str, values: Mapping) -> str:
        return ", ".join(f"{task} AP {values[f'{task}_ap{column}']:.1f}" for task in tasks)

    zeroed = f"{listing('', row)}; with the branches of {stages} zeroed {listing('_zeroed', row)}."
    if all(row[f"{task}_ap_zeroed"] >= 0.99 * row[f"{task}_ap"] for task in tasks):
        verdict = "The AP is no lower without them, so these branches are idle."
    else:
        verdict = (
            "These branches are not idle, but this alone does not show that they are needed: the "
            "AP also drops if a random branch is removed."
        )
    return (
        f"{zeroed} {verdict} Trained without them from the start, the same network reached "
        f"{listing('_trained_without', recorded)} (results/quickstart.json). These shapes can be "
        "recognised without deep features: the numbers show that the whole pipeline works, but do "
        "not compare backbones."
    )


def _metrics(folder: str) -> dict[str, dict]:
    return read_json(folder, "inference", METRICS_FILE)


def _control(folder: str, name: str) -> dict[str, float | None]:
    """AP of an evaluation under the keys ``box_ap_NAME`` and ``mask_ap_NAME``."""
    return {
        f"{TASK_NAMES[task]}_ap_{name}": None if v["AP"] is None else round(v["AP"], 2)
        for task, v in _metrics(folder).items()
    }


def _zeroed(folder: str) -> dict[str, float | None]:
    zeroed = zeroed_folder(folder, CONTROLLED_STAGES)
    own, other = (os.path.join(f, "inference", METRICS_FILE) for f in (folder, zeroed))
    if not os.path.isfile(other):
        return {}
    if os.path.getmtime(other) < os.path.getmtime(own):
        raise InputError(
            f"{other}: is older than the evaluation of the whole network, so it may be of other "
            "weights; evaluate with --zeroed again"
        )
    return _control(zeroed, "zeroed")


def _check_without(folder: str, cfg: CfgNode) -> None:
    """Check that the config of the run in ``folder`` differs from ``cfg`` in IDLE_STAGES alone."""
    expected, found = cfg.clone(), CfgNode.load_cfg(read_text(folder, "config.yaml"))
    expected.MODEL.LAMBDA_RESNET.IDLE_STAGES = list(CONTROLLED_STAGES)
    for node in (expected, found):  # paths do not change what is trained
        node.OUTPUT_DIR = node.DATASETS.COCO_FOLDER = ""
    keys, others = flat(expected), flat(found)
    for key in keys.keys() | others.keys():
        if keys.get(key) != others.get(key):
            raise InputError(
                f"{folder}: is not the same run without the branches of "
                f"{' and '.join(CONTROLLED_STAGES)}: {key} is {others.get(key)!r} there, "
                f"{keys.get(key)!r} is expected"
            )


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", metavar="DIR", help="OUTPUT_DIR of the run")
    parser.add_argument(
        "--without", metavar="DIR", default="",
        help="OUTPUT_DIR of the same run with MODEL.LAMBDA_RESNET.IDLE_STAGES ['res4','res5']",
    )  # fmt: skip
    parser.add_argument("--name", help="the record becomes results/NAME.json")
    parser.add_argument("--command", help="command that made the run, in the root of the checkout")
    parser.add_argument(
        "--note", nargs="*", default=[], metavar="KEY=TEXT", help="further values of the row"
    )
    parser.add_argument(
        "--controls", metavar="DIR",
        help="only explain what the control experiments of the quickstart run in DIR say",
    )  # fmt: skip
    parser.add_argument(
        "--readme", action="store_true", help="generate the tables of the documents again"
    )
    parser.add_argument(
        "--check", action="store_true", help="only check that the tables are up to date"
    )
    args = parser.parse_args()
    if args.controls:
        recorded = read_json(str(PROJECT / "results" / "quickstart.json"))
        print(controls_text(row_of_run(args.controls), recorded["rows"][0]))
        return 0
    if args.run:
        if not (args.name and args.command):
            raise InputError("--run needs --name and --command")
        if wrong := [note for note in args.note if "=" not in note]:
            raise InputError(f"--note {wrong[0]!r}: expected KEY=TEXT")
        row = row_of_run(args.run, without=args.without) | dict(
            note.split("=", 1) for note in args.note
        )
        with open(os.path.join(args.run, "config.yaml"), encoding="utf-8") as file:
            seed = CfgNode.load_cfg(file).SEED
        path = Path(record_path(str(PROJECT / "results"), args.name, "--name"))
        with writing(str(path)):
            write_json(make_record(args.command, [row], seeds=[seed]), str(path))
        print(path.relative_to(PROJECT))
    if not (args.readme or args.check):
        return 0
    status = 0
    for name in documents(PROJECT):
        document = PROJECT / name
        new = document_with_tables(PROJECT, name)
        if args.check and new != document.read_text(encoding="utf-8"):
            print(f"{name} differs from results/: python tools/record_run.py --readme")
            status = 1
        elif args.readme:
            document.write_text(new, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
