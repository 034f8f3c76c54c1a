"""Fixtures of every room."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.logger import setup_logger

COCO_TINY_VARIABLE = "LAMBDA_DET_COCO_TINY"
PROJECT = Path(__file__).resolve().parent.parent
LOGGERS = ("lambda_det", "detectron2", "fvcore")
THREADS = torch.get_num_threads()
# No bit of a test, or of a process that it starts, depends on how fast a back end was.
os.environ["LAMBDA_DET_AUTOTUNE"] = "0"


def _loggers_as_imported() -> None:
    """detectron2's setup_logger cuts a logger off from the root and gives it the stdout of the
    test that called it; a tool sets levels for its process."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate, logger.disabled, logger.handlers = True, False, []
            logger.setLevel(logging.NOTSET)
    setup_logger.cache_clear()  # it remembers what it has set up, and does not do it again


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures, those of modules and sessions included: no test, and no fixture that it
    is the first to ask for, depends on the tests that ran before."""
    _loggers_as_imported()
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """What a shared fixture did to the loggers does not reach the test that happens to be first."""
    _loggers_as_imported()
    folder = Path.cwd()
    yield
    os.chdir(folder)
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def coco_tiny(project: Path) -> Path:
    """80 real COCO images with masks: a folder named by the variable, or ../shared/coco_tiny."""
    named = os.environ.get(COCO_TINY_VARIABLE)
    folder = Path(named) if named else project.parent / "shared" / "coco_tiny"
    if not (folder / "annotations" / "instances_val2017.json").is_file():
        pytest.skip(f"no COCO images at {folder}; name a folder in {COCO_TINY_VARIABLE}")
    return folder


@pytest.fixture(autouse=True)
def _no_dataset_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the person running the tests has set must not reach them."""
    monkeypatch.delenv("LAMBDA_DET_COCO_FOLDER", raising=False)


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What lambda_det logs, from INFO on, also after a test that has set up the console."""
    monkeypatch.setattr(logging.getLogger("lambda_det"), "propagate", True)
    caplog.set_level(logging.INFO, "lambda_det")
    return caplog
