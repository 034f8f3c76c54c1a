"""The commands of a run: its pretraining, its training, its evaluation with zeroed branches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.engine.averaging import FINAL_AVERAGE
from lambda_det.experiments.preparing import shell_words
from lambda_det.experiments.run import Run

_LAMBDA_DET = (sys.executable, "-W", "ignore", "-m", "lambda_det")

Command = Callable[[Run], Sequence[str]]


def train_command(run: Run) -> list[str]:
    """``lambda_det train_net`` of this Python."""
    return [*_LAMBDA_DET, "train_net", *run.words]


def pretrain_command(run: Run) -> list[str]:
    """The suite's own, in a shell."""
    return shell_words(run.pretrain)


def zeroed_command(run: Run) -> list[str]:
    """``lambda_det evaluate`` of this Python on the weights that a run has left, with the residual
    branches of :data:`~lambda_det.backbone.residual_branches.CONTROLLED_STAGES` zeroed.

    The config is the one that was built, with the classes of its dataset, below the suite's words:
    the comparison's folder may have been moved.
    """
    return [
        *_LAMBDA_DET, "evaluate", "--zeroed", ",".join(CONTROLLED_STAGES),
        "--config-file", os.path.join(run.folder, "config.yaml"),
        *run.overrides, "OUTPUT_DIR", run.folder, "MODEL.WEIGHTS", final_weights(run),
    ]  # fmt: skip


def final_weights(run: Run) -> str:
    """Path of the weights that a finished run was judged by."""
    averaged = run.settings["SOLVER.EMA_DECAY"]
    return os.path.join(run.folder, FINAL_AVERAGE if averaged else "model_final.pth")
