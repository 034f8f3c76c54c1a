"""Commands of training, in this process and in one of their own."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import subprocess
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

CONFIG = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"


def run_command(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """In this process. Its loggers get the stream that is read here, and no earlier one."""
    setup_logger.cache_clear()
    for logger in ("lambda_det", "detectron2", "fvcore"):
        logging.getLogger(logger).handlers = []
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = importlib.import_module(f"lambda_det.commands.{name}").main(words)
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def train_net(project: Path, *arguments: object) -> subprocess.CompletedProcess:
    """``python tools/train_net.py`` in the root of the checkout."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "tools/train_net.py", *map(str, arguments)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=600,
    )
