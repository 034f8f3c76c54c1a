"""Fixtures of the backbone's tests."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _records_reach_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    """detectron2's setup_logger, called by another test, may have cut our records off."""
    monkeypatch.setattr(logging.getLogger("lambda_det"), "propagate", True)
