"""Commands in processes that find the libraries imported, which takes longer than most of the
documents' commands run. This project's own modules they import themselves, as ever."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

PRELOADED = ["detectron2.engine", "detectron2.evaluation", "matplotlib.pyplot", "timm"]


@contextmanager
def ready_processes(environment: Mapping[str, str]) -> Iterator[None]:
    """Start the server that :func:`run_ready` forks from, and end it."""
    forkserver._forkserver._stop()  # as Python's own tests do
    forkserver.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, environment):
        forkserver.ensure_running()
    try:
        yield
    finally:
        forkserver._forkserver._stop()
        forkserver.set_forkserver_preload([])


def run_ready(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """``python WORDS`` in ``folder``: its exit status and what it has printed."""
    output = folder / "printed.txt"
    process = multiprocessing.get_context("forkserver").Process(
        target=_run, args=(list(words), str(folder), str(output))
    )
    process.start()
    process.join()
    return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _run(words: list[str], folder: str, output: str) -> None:
    with open(output, "wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    warnings.simplefilter("ignore")
    # (multiprocessing has put the null device in the place of stdin.)
    sys.argv = words
    sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
    runpy.run_path(words[0], run_name="__main__")
