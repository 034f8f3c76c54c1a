"""All cases, and the page that shows what each of them gives."""

from __future__ import annotations

import itertools
import re

import corpus_annotations
import corpus_configs
import corpus_images
import corpus_paths
import corpus_predictions
import corpus_weights
from corpus_case import PROJECT, Case, Outcome, run_case

PAGE = PROJECT / "docs" / "bad_input.md"

CASES: list[Case] = [
    *corpus_images.case.cases,
    *corpus_annotations.case.cases,
    *corpus_predictions.case.cases,
    *corpus_configs.case.cases,
    *corpus_weights.case.cases,
    *corpus_paths.case.cases,
]

_HEAD = """\
# Bad input

{count} files, keys and names that are wrong or odd, what a command says of them, and its exit
status: 2 for an input that cannot be used, 0 for one that can. Made by `python tools/corpus.py`;
the cases are in `tests/corpus`. A test holds every row, and that no input is changed and no file
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
