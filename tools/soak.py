#!/usr/bin/env python3
"""Train for a long time and say whether memory, file handles and threads stay what they are."""

from __future__ import annotations

import argparse
import sys

from lambda_det.engine.setup import setup_console
from lambda_det.errors import exit_on_input_error
from lambda_det.experiments.soak import remove_run, run_soak
from lambda_det.experiments.tiny_training import record_of
from lambda_det.project import results_folder
from lambda_det.records import figures_table, record_path, write_json


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="is made")
    parser.add_argument("--iterations", type=int, default=5000, help="(5000)")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--record", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args()
    path = record_path(str(results_folder()), args.record) if args.record else None
    setup_console()
    row = run_soak(args.output, args.iterations)
    name = args.record or "soak"
    record = record_of("soak", sys.argv[1:], args.output, row, name=name, seed=1)
    print(figures_table(record))
    if path:
        write_json(record, path)
    if not args.keep:
        remove_run(args.output)
    print(row["verdict"])
    return 0 if row["verdict"] == "flat" else 1


if __name__ == "__main__":
    sys.exit(main())
