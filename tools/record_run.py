#!/usr/bin/env python3
"""Record a finished run in results/, or make the tables of the documents anew from the records."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from detectron2.config import CfgNode

from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.evaluation.records import controls_text, row_of_run
from lambda_det.experiments.documents import document_with_tables, documents
from lambda_det.records import make_record, read_text, record_path, write_json

PROJECT = Path(__file__).resolve().parent.parent


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", metavar="DIR", help="OUTPUT_DIR of the run")
    parser.add_argument(
        "--without", metavar="DIR", default="",
        help="OUTPUT_DIR of the same run with MODEL.LAMBDA_RESNET.IDLE_STAGES ['res4','res5']",
    )  # fmt: skip
    parser.add_argument("--name", help="the record becomes results/NAME.json")
    parser.add_argument("--command", help="what made the run, from the root of the checkout")
    parser.add_argument("--note", nargs="*", default=[], metavar="KEY=TEXT", help="more of the row")
    parser.add_argument(
        "--controls", metavar="DIR",
        help="only say what the controls of the quickstart in DIR tell of its AP",
    )  # fmt: skip
    parser.add_argument(
        "--readme", action="store_true", help="make the tables of the documents anew"
    )
    parser.add_argument("--check", action="store_true", help="only say whether they are up to date")
    args = parser.parse_args()
    if args.controls:
        recorded = json.loads(read_text(str(PROJECT / "results" / "quickstart.json")))
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
