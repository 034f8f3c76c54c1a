"""Suites whose runs are a few lines of Python instead of a training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from suite_helpers import fake_training, fake_zeroed, make_output, small_suite, write_file

from lambda_det.comparison import execute, read_suite, running
from lambda_det.comparison.suite import Run, Suite


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return make_output(tmp_path / "out")


@pytest.fixture
def content(project: Path) -> dict:
    return small_suite(project)


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[[object], str]:
    return functools.partial(write_file, tmp_path / "suite.yaml")


@pytest.fixture
def read(content: dict, write_suite, output: Path) -> Callable[..., Suite]:
    """Read the suite, with what a test has changed of ``content`` and with KEY VALUE pairs."""

    def read_it(*overrides: str, folder: Path = output, **options: object) -> Suite:
        return read_suite(write_suite(content), str(folder), overrides, **options)

    return read_it


@pytest.fixture
def train(output: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[Run, str]]:
    """Execute a suite without real trainings, ``jobs`` at a time -> the states of its runs."""
    monkeypatch.setattr(running, "train_command", fake_training)
    monkeypatch.setattr(running, "zeroed_command", fake_zeroed)

    def execute_it(
        suite: Suite, folder: Path = output, *, command=fake_training, jobs=1, only=None
    ) -> dict[Run, str]:
        monkeypatch.setattr(running, "train_command", command)
        return execute(suite, str(folder), jobs=jobs, only=only)

    return execute_it
