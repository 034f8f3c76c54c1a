#!/usr/bin/env python3
"""Run every case of bad input (tests/corpus) and write docs/bad_input.md, or compare with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lambda_det.errors import exit_on_input_error

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "corpus"))

from corpus_table import CASES, PAGE, outcomes, page


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    args = parser.parse_args(argv)
    found = outcomes()
    wrong = [
        case.name
        for case in CASES
        if (found[case.name].status, case.says in found[case.name].line) != (case.status, True)
    ]
    for name in wrong:
        print(f"{name}: {found[name].trace or found[name].output}", file=sys.stderr)
    text = page(found)
    if args.check:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is not up to date: python tools/corpus.py", file=sys.stderr)
            return 1
    elif not wrong:
        PAGE.write_text(text, encoding="utf-8")
    print(f"{len(CASES)} cases, {len(wrong)} of them not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
