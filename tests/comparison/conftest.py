"""Suites whose runs are a few lines of Python instead of a training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from suite_helpers import fake_training, make_output, small_suite, write_file

from lambda_det.comparison.suite import Run


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
def fake_command() -> Callable[[Run], list[str]]:
    return fake_training
