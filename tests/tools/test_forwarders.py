"""tools/*.py: what each calls, and that it finds that from any folder."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
OWN = {"doctor", "install_detectron2"}  # for machines that have no torch or no detectron2
FORWARDERS = sorted(path for path in TOOLS.glob("*.py") if path.stem not in OWN)


@pytest.mark.parametrize("path", FORWARDERS, ids=lambda path: path.stem)
def test_a_forwarder_has_the_main_of_its_study_or_command(path: Path) -> None:
    main = runpy.run_path(str(path))["main"]
    room, _, name = main.__module__.rpartition(".")
    assert room.startswith(("studies", "lambda_det.commands")) and name == path.stem


@pytest.mark.slow
def test_a_forwarder_runs_from_another_folder(project: Path, tmp_path: Path) -> None:
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and Path(path).resolve() != project]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(TOOLS / "benchmark_evaluation.py"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(others)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "--detections" in done.stdout, done.stderr
