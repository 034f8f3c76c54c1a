"""The command line: ``python tools/doctor.py``, ``lambda_det doctor`` or, where detectron2 is
there, ``python -m lambda_det.doctor``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Sequence

from . import datasets, detector, machine, packages
from .findings import PROBLEM, Check, run_checks, worst
from .report import as_data, as_table

# In this order: libraries, what is made of them, the machine.
CHECKS: tuple[Check, ...] = (
    *packages.CHECKS, *detector.CHECKS, *machine.CHECKS, *datasets.CHECKS,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None, checks: Sequence[Check] = CHECKS) -> int:
    """Run the checks and show what they found.

    Returns:
        The exit status: 0 without a problem, 1 with one, 2 where ``--output`` cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="doctor", description="What of the environment works, and how to mend the rest."
    )
    parser.add_argument("--json", action="store_true", help="JSON on the screen, no table")
    parser.add_argument("--output", metavar="O.json", help="write the JSON to a file, too")
    options = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        rows = run_checks(checks)
    logging.disable(logging.NOTSET)
    text = json.dumps(as_data(rows), indent=2, ensure_ascii=False)
    sys.stdout.write(f"{text if options.json else as_table(rows)}\n")
    if options.output:
        try:
            with open(options.output, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
        except OSError as error:
            reason = error.strerror or error
            sys.stderr.write(f"error: --output {options.output}: cannot be written ({reason})\n")
            return 2
    return int(worst(rows) == PROBLEM)
