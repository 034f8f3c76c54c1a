"""Run every case of bad input and write studies/bad_input.md."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import logging
import re
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from unittest import mock
from unittest.mock import Mock

from detectron2.engine import defaults
from torch import nn

from lambda_det.commands import train_net
from lambda_det.engine import Parts, RunOptions, yacs
from lambda_det.errors import exit_on_input_error
from studies.corpus.cases import CASES, PROJECT, Case

PAGE = PROJECT / "studies" / "bad_input.md"
_HEAD = """\
# Bad input

{count} files, keys and names that are wrong or odd, what a command says of them, and its exit
status: 2 for an input that cannot be used, 0 for one that can. They are those that no unit test
holds, and at least one for each kind of file; the line of any other wrong value is in the tests of
what reads it. Made by `python tools/corpus.py`; the cases are in `studies/corpus`. A test holds
every row, and that no input is changed and no file is left half-written.

`DIR` stands for a folder. What a library says in its own words is shown as `‹…›`. A training here
reads every image of its data and has no model.
"""
# Words of Python, Pillow, PyTorch and PyYAML, which change with their versions.
_FOREIGN = (
    r"(?<=cannot be read: ).*",
    r"(?<=is not valid JSON: ).*",
    r"(?<=the file is not valid YAML: ).*",
    r"(?<=damaged \()[^)]*(?=\))",
    r"(?<=the file is refused \().*(?=\); only plain YAML)",
)


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: exit status.
        line: the one that begins with ``error: ``; of a success the one that the case says.
        output: all that was printed, with the traceback of an error that nobody caught.
        changed: input files that are no longer what they were.
        left: names of the files that were not there before.
    """

    status: int
    line: str
    output: str
    changed: list[str]
    left: set[str]


def run_case(case: Case) -> Outcome:
    """Run a case in a folder of its own, in this process."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as name:
        folder = Path(name).resolve() / "d"
        folder.mkdir()
        command, *words = map(str, case.make(folder))
        before, printed = _files(folder), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                with case.around():
                    status = _run(command, words)
            except Exception:
                status = 1
                traceback.print_exc()
        after = _files(folder)
        output = printed.getvalue().replace(str(folder), "DIR").replace(f"{PROJECT}/", "")
        return Outcome(
            status=status,
            line=_line(output, case),
            output=output,
            changed=[str(path) for path in before if before[path] != after.get(path)],
            left={path.name for path in after.keys() - before.keys()},
        )


def _run(command: str, words: list[str]) -> int:
    """The exit status of a command; a training reads its images and has no model."""
    names = ("lambda_det", "detectron2", "fvcore")
    before = {name: logging.getLogger(name).handlers[:] for name in names}
    with (
        mock.patch.object(defaults, "collect_env_info", str),  # it takes seconds
        mock.patch.multiple(
            yacs,
            build_detector=Mock(return_value=nn.Identity()),
            build_optimizer=Mock(),
            build_lr_scheduler=Mock(),
        ),
        mock.patch.multiple(train_net, run=_read_images, log_model=Mock()),
    ):
        try:
            return importlib.import_module(f"lambda_det.commands.{command}").main(words)
        finally:  # the log files lie in a folder that goes
            for name in names:
                logger = logging.getLogger(name)
                for handler in set(logger.handlers) - set(before[name]):
                    handler.close()
                logger.handlers = before[name]


def _read_images(parts: Parts, options: RunOptions, *, resume: bool) -> dict:
    """In place of the training: read each image of the training set once."""
    loader = parts.train_loader
    batches = itertools.islice(loader, loader.num_images)
    for image in sorted(itertools.chain.from_iterable(batches), key=lambda one: one["file_name"]):
        sides = " x ".join(map(str, image["image"].shape[1:]))
        mean = round(image["image"].double().mean().item(), -1)
        name, objects = Path(image["file_name"]).name, len(image["instances"])
        print(f"{name} read: {sides} pixels, mean {mean:.0f}, objects: {objects}")
    return {}


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _line(output: str, case: Case) -> str:
    lines = [" ".join(line.split()) for line in output.splitlines()]
    if case.status:
        return "; ".join(line[7:] for line in lines if line.startswith("error: "))
    return next((line for line in lines if case.says in line), "")


def outcomes() -> dict[tuple[str, str], Outcome]:
    """(group, title) -> outcome, of all cases."""
    return {(case.group, case.title): run_case(case) for case in CASES}


def page(found: dict[tuple[str, str], Outcome]) -> str:
    """The page for these outcomes."""
    parts = [_HEAD.format(count=len(CASES))]
    for group, cases in itertools.groupby(CASES, key=lambda case: case.group):
        parts.append(f"## {group.capitalize()}\n\n| case | status | line |\n|---|---|---|\n")
        for case in cases:
            outcome = found[group, case.title]
            line = outcome.line
            for pattern in _FOREIGN:
                line = re.sub(pattern, "‹…›", line)
            line = line.replace("|", "\\|").replace("`", "'")
            parts[-1] += f"| {case.title} | {outcome.status} | `{line}` |\n"
    return "\n".join(parts)


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    found, wrong = outcomes(), 0
    for case in CASES:
        outcome = found[case.group, case.title]
        if outcome.status != case.status or case.says not in outcome.line:
            wrong += 1
            print(f"{case.group}: {case.title}: {outcome.output}", file=sys.stderr)
    if not wrong:
        PAGE.write_text(page(found), encoding="utf-8")
    print(f"{len(CASES)} cases, {wrong} of them not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
