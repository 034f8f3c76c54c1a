"""The commands of a run: its pretraining, its training, its evaluation with zeroed branches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.preparing import shell_words
from lambda_det.comparison.processes import PROJECT
from lambda_det.comparison.run import Run
from lambda_det.engine.averaging import FINAL_AVERAGE

Command = Callable[[Run], Sequence[str]]


def train_command(run: Run) -> list[str]:
    """``tools/train_net.py`` of this checkout."""
    tool = os.path.join(PROJECT, "tools", "train_net.py")
    return [sys.executable, "-W", "ignore", tool, *run.words]


def pretrain_command(run: Run) -> list[str]:
    """The suite's own, in a shell."""
    return shell_words(run.pretrain)


def zeroed_command(run: Run) -> list[str]:
    """``tools/evaluate.py`` of this checkout on the weights that a run has left, with the residual
    branches of :data:`~lambda_det.backbone.residual_branches.CONTROLLED_STAGES` zeroed.

    The config is the one that was built, with the classes of its dataset, below the suite's words:
    the comparison's folder may have been moved.
    """
    return [
        sys.executable, "-W", "ignore", os.path.join(PROJECT, "tools", "evaluate.py"),
        "--zeroed", ",".join(CONTROLLED_STAGES),
        "--config-file", os.path.join(run.folder, "config.yaml"),
        *run.overrides, "OUTPUT_DIR", run.folder, "MODEL.WEIGHTS", final_weights(run),
    ]  # fmt: skip


def final_weights(run: Run) -> str:
    """Path of the weights that a finished run was judged by."""
    averaged = run.settings["SOLVER.EMA_DECAY"]
    return os.path.join(run.folder, FINAL_AVERAGE if averaged else "model_final.pth")
