#!/usr/bin/env python3
"""Kill a training again and again, resume it, and compare its end with an undisturbed run's."""

from __future__ import annotations

import argparse
import sys

from lambda_det.engine.setup import setup_console
from lambda_det.errors import exit_on_input_error
from lambda_det.experiments.chaos import remove_checkpoints, run_chaos
from lambda_det.experiments.tiny_training import record_of
from lambda_det.project import results_folder
from lambda_det.records import record_path, rows_table, write_json


@exit_on_input_error
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="is made")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=0, help="default: five per kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--record", metavar="NAME", help="write results/NAME.json")
    args = parser.parse_args()
    path = record_path(str(results_folder()), args.record) if args.record else None
    setup_console()
    result = run_chaos(args.output, args.kills, iterations=args.iterations, seed=args.seed)
    name, row = args.record or "chaos", result.row()
    record = record_of("chaos", sys.argv[1:], args.output, row, name=name, seed=args.seed)
    print(rows_table(record))
    if path:
        write_json(record, path)
    if not args.keep:
        remove_checkpoints(args.output)
    print("the same" if result.same else "NOT the same as the undisturbed run")
    return 0 if result.same else 1


if __name__ == "__main__":
    sys.exit(main())
