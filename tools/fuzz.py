#!/usr/bin/env python3
"""Fuzz the reading of annotations, detections and masks (tests/fuzz) and record what was found."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from lambda_det.errors import InputError, exit_on_input_error
from lambda_det.evaluation.metrics import check_writable
from lambda_det.records import make_record, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))

from fuzz_run import fuzz, totals


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="(10)")
    parser.add_argument("--seed", type=int, default=0, help="decides the cases (0)")
    parser.add_argument("--output", metavar="JSON", help="record to write")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < float("inf"):
        raise InputError(f"--minutes {args.minutes}: expected a finite number above 0")
    if args.output:
        check_writable(args.output)
    rows = fuzz(60 * args.minutes, args.seed)
    for row in rows:
        row["minutes_of_all"] = args.minutes
        print({key: value for key, value in row.items() if key != "findings"})
        for finding in row["findings"]:
            print(json.dumps(finding, indent=1))
    if args.output:
        words = sys.argv[1:] if argv is None else argv
        command = shlex.join(["python", "tools/fuzz.py", *words])
        write_json(make_record(command, rows, seeds=[args.seed]), args.output)
    found = totals(rows)
    print(", ".join(f"{count} {name}" for name, count in found.items()))
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
