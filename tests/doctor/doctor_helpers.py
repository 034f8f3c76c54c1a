"""Stand-ins for libraries, and what a finding must look like."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from lambda_det.doctor.findings import OK, Finding


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **names: object) -> ModuleType:
    """A module of that name, with these names alone."""
    module = ModuleType(name)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Let the import of ``name`` raise."""
    original = importlib.import_module

    def import_module(wanted: str, *args):
        if wanted == name:
            raise error
        return original(wanted, *args)

    monkeypatch.setattr(importlib, "import_module", import_module)


def check(finding: Finding, status: str, *words: str) -> None:
    assert finding.status == status, finding
    text = f"{finding.found} | {finding.fix}"
    assert "\n" not in text and all(word in text for word in words), text
    assert bool(finding.fix) == (status != OK)
