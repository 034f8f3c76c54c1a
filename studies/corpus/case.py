"""A case of bad input, and what a command makes of it: status, line, and what it leaves behind."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import itertools
import logging
import re
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from detectron2.data import DatasetCatalog
from detectron2.engine import defaults

from lambda_det.data import build_train_loader

PROJECT = Path(__file__).resolve().parent.parent.parent
LEFT_BY_A_START = {"out/config.yaml", "out/log.txt"}
"""What a training writes before it reads its first picture."""


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        tool: of ``lambda_det/commands/``, without ``.py``.
        arguments: its words.
        around: what surrounds the call (a disk that is full, say).
        whole: whether a training is a real one; else it reads every picture and has no model.
    """

    tool: str
    arguments: list[str]
    around: contextlib.AbstractContextManager = field(default_factory=contextlib.nullcontext)
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        status: of the process.
        line: the line that begins with ``error: ``; or of a success the line that the case says.
        output: all that was printed and logged.
        changed: input files that are no longer what they were.
        left: files that were not there before, as paths in the case's folder.
        trace: of an error that nobody caught.
    """

    status: int
    line: str
    output: str
    changed: list[str]
    left: list[str]
    trace: str = ""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        group: kind of input.
        title: what is wrong with it, or odd.
        make: writes the files into a folder and gives the command.
        status: expected.
        says: part of the line, or of the output of a success.
        left: files that may be there afterwards.
    """

    group: str
    title: str
    make: Callable[[Path], Command]
    status: int
    says: str
    left: frozenset[str]

    @property
    def name(self) -> str:
        return f"{self.group}: {self.title}"


class Group:
    """Collects the cases of one kind of input, as a decorator of what makes them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[Case] = []

    def __call__(self, title: str, says: str, *, status: int = 2, left: set[str] = frozenset()):
        def add(make: Callable[[Path], Command]) -> Callable[[Path], Command]:
            self.cases.append(Case(self.name, title, make, status, says, frozenset(left)))
            return make

        return add


def run_case(case: Case) -> Outcome:
    """Run a case in a folder of its own, in this process."""
    with tempfile.TemporaryDirectory(prefix="corpus-") as name:
        folder = Path(name).resolve() / "d"
        folder.mkdir()
        command = case.make(folder)
        before = _files(folder)
        printed, logged = io.StringIO(), io.StringIO()
        status, trace = 0, ""
        with _logging_into(logged), contextlib.redirect_stdout(printed), \
                contextlib.redirect_stderr(printed), command.around:  # fmt: skip
            try:
                status = _main_of(command)()
            except SystemExit as error:  # argparse's
                status = error.code if isinstance(error.code, int) else 1
            except Exception:
                status, trace = 1, traceback.format_exc()
        after = _files(folder)
        output = (printed.getvalue() + logged.getvalue()).replace(str(folder), "DIR")
        output = output.replace(str(PROJECT) + "/", "")
        return Outcome(
            status=status,
            line=_line(output, case),
            output=output,
            changed=[path for path in before if before[path] != after.get(path)],
            left=[re.sub(r"tfevents.*", "tfevents", p) for p in after if p not in before],
            trace=trace,
        )


class ReadsData:
    """Stands for the trainer: reads every picture of the training set once, without a model."""

    def __init__(self, cfg) -> None:
        self._images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
        self._loader = build_train_loader(cfg)

    def resume_or_load(self, resume: bool) -> None:
        pass

    def train(self) -> None:
        batches = iter(self._loader)
        read = {}
        for image in itertools.chain.from_iterable(next(batches) for _ in range(self._images)):
            name = Path(image["file_name"]).name
            sides = " x ".join(map(str, image["image"].shape[1:]))
            grey = round(image["image"].double().mean().item(), -1)
            count = len(image["instances"])
            read[name] = f"{name} read: {sides} pixels, mean {grey:.0f}, objects: {count}"
        print(*sorted(read.values()), sep="\n")


def _main_of(command: Command) -> Callable[[], int]:
    module = importlib.import_module(f"lambda_det.commands.{command.tool}")

    def main() -> int:
        # Most of a case's time: lines about the machine, and the config made into OmegaConf.
        patches = [mock.patch.object(defaults, "collect_env_info", lambda: "")]
        if hasattr(defaults, "_try_get_key"):
            patches.append(mock.patch.object(defaults, "_try_get_key", _first_key))
        if command.tool == "train_net" and not command.whole:
            patches.append(mock.patch.object(module, "Trainer", ReadsData))
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            return module.main(command.arguments)

    return main


def _first_key(cfg, *keys: str, default: object = None) -> object:
    for key in keys:
        with contextlib.suppress(AttributeError):
            return functools.reduce(getattr, key.split("."), cfg)
    return default


@contextlib.contextmanager
def _logging_into(stream: io.StringIO):
    """Copies warnings, and closes the log files that the command has opened."""
    names = ("lambda_det", "detectron2", "fvcore")
    handler = logging.StreamHandler(stream)
    before = {name: list(logging.getLogger(name).handlers) for name in names}
    for name in names:
        logging.getLogger(name).addHandler(handler)
    try:
        with mock.patch.object(logging, "raiseExceptions", False):
            yield
    finally:
        for name in names:
            logger = logging.getLogger(name)
            for added in [h for h in logger.handlers if h not in before[name]]:
                logger.removeHandler(added)
                if isinstance(added, logging.FileHandler):
                    added.close()
            logger.handlers = before[name]


def _files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _line(output: str, case: Case) -> str:
    lines = [" ".join(line.split()) for line in output.splitlines()]
    if case.status:
        errors = [line for line in lines if "error: " in line]
        return errors[0].partition("error: ")[2] if len(errors) == 1 else "; ".join(errors)
    saying = [line for line in lines if case.says in line]
    return next((line for line in saying if line.startswith(case.says)), (saying or [""])[0])
