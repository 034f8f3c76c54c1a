"""Fixtures of the tests of the command lines."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quick_weights(quick_weights: None) -> None:
    """For every network here."""
