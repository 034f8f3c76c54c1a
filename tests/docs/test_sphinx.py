"""The docstrings and the pages render."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]


def test_pages_and_docstrings_render_without_a_warning(tmp_path: Path) -> None:
    for needed in ("sphinx", "myst_parser"):
        pytest.importorskip(needed)
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", "-q", "-W", "--keep-going"]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, str(PROJECT / "docs"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in ("lambda_det.layers.LambdaLayer", "lambda_det.backbone.build_lambda_resnet"):
        assert f'id="{name}"' in page
    assert "Raises" in page
    pages = {path.stem for path in (PROJECT / "docs").glob("*.md")}
    assert all((tmp_path / f"{name}.html").is_file() for name in pages)
