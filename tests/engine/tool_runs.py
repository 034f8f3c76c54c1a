"""The tools of training in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


def train_net(project: Path, *arguments: object) -> subprocess.CompletedProcess:
    return run_tool(project, "train_net.py", *arguments)


def run_tool(project: Path, name: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", f"tools/{name}", *map(str, arguments)]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(project)]))
    return subprocess.run(
        command,
        cwd=project,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
