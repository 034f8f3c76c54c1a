"""Fixtures of every room."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

COCO_TINY_VARIABLE = "LAMBDA_DET_COCO_TINY"
PROJECT = Path(__file__).resolve().parent.parent


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
