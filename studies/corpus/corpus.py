"""Run every case of bad input and write studies/bad_input.md, or compare with it."""

from __future__ import annotations

import argparse
import itertools
import re
import sys

from lambda_det.errors import exit_on_input_error
from studies.corpus import annotations, configs, images, paths, predictions, weights
from studies.corpus.case import PROJECT, Case, Outcome, run_case

PAGE = PROJECT / "studies" / "bad_input.md"

CASES: list[Case] = [
    *images.case.cases,
    *annotations.case.cases,
    *predictions.case.cases,
    *configs.case.cases,
    *weights.case.cases,
    *paths.case.cases,
]

_HEAD = """\
# Bad input

{count} files, keys and names that are wrong or odd, what a command says of them, and its exit
status: 2 for an input that cannot be used, 0 for one that can. Made by `python tools/corpus.py`;
the cases are in `studies/corpus`. A test holds every row, and that no input is changed and no file
is left half-written.

`DIR` stands for a folder. What a library says in its own words is shown as `‹…›`. A training here
reads every picture of its data and has no model, but for the cases that need one.
"""

# Words of Python, Pillow, PyTorch, PyYAML and yacs, which change with their versions.
_FOREIGN = (
    r"(?<=cannot be read: )(?!its pixels|No such|Is a dir).*",
    r"(?<=is not valid JSON: ).*",
    r"(?<=is no YAML: ).*",
    r"(?<=truncated or damaged \()[^)]*(?=\))",
    r"(?<=refused, it has ).*(?=; plain YAML)",
    r"(?<=a value of a wrong type \().*(?=\))",
    r"(?<=is not YAML: ).*",
)


def outcomes() -> dict[str, Outcome]:
    """Case name -> outcome, of all cases."""
    return {case.name: run_case(case) for case in CASES}


def page(found: dict[str, Outcome]) -> str:
    """The page for these outcomes."""
    parts = [_HEAD.format(count=len(CASES))]
    for group, cases in itertools.groupby(CASES, key=lambda case: case.group):
        parts.append(f"## {group.capitalize()}\n\n| case | status | line |\n|---|---|---|\n")
        for case in cases:
            outcome = found[case.name]
            parts[-1] += f"| {case.title} | {outcome.status} | {_cell(outcome.line)} |\n"
    return "\n".join(parts)


def _cell(line: str) -> str:
    for pattern in _FOREIGN:
        line = re.sub(pattern, "‹…›", line)
    line = re.sub(r"(?<= one of )[\w-]+(, [\w-]+){3,}", "‹names›", line)
    return "`" + line.replace("|", "\\|").replace("`", "'") + "`"


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
