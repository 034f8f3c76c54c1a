#!/usr/bin/env python3
"""Say what the models of a finished replica got right: objects, shapes, kinds (chance: 50 %)."""

from __future__ import annotations

import argparse
import os

from lambda_det.errors import exit_on_input_error, writing
from lambda_det.experiments import read_suite
from lambda_det.experiments.kinds import kind_rows
from lambda_det.experiments.run_files import state_of
from lambda_det.project import tool_command
from lambda_det.records import make_record, rows_table, write_json


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="configs/suites/replica.yaml", metavar="YAML")
    parser.add_argument(
        "--comparison", required=True, metavar="DIR", help="--output of tools/compare.py"
    )
    parser.add_argument("--output", metavar="JSON", help="record to write")
    args = parser.parse_args(argv)
    suite = read_suite(args.suite, args.comparison)
    states = {run: state_of(run) for run in suite.runs}
    words = []
    if args.suite != parser.get_default("suite"):
        words += ["--suite", args.suite]
    words += ["--comparison", f"output/{suite.name}"]
    if args.output:
        words += ["--output", f"results/{os.path.basename(args.output)}"]
    command = tool_command("replica_kinds", words)
    record = make_record(command, kind_rows(suite, states), seeds=suite.seeds)
    print(rows_table(record))
    if args.output:
        with writing(args.output):
            write_json(record, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
