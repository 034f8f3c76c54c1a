"""One training of a comparison: its name, its folder, and the commands that train and evaluate
it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import NAMED_STAGES
from lambda_det.engine.averaging import FINAL_AVERAGE
from lambda_det.engine.setup import import_words
from lambda_det.evaluation.run_folder import zeroed_folder


@dataclass(frozen=True)
class Run:
    """One training: a model with a seed on a set.

    Attributes:
        model: name of the model in the suite.
        set: name of the set, "" in a suite without sets.
        seed: value of SEED.
        config: path of the config file.
        overrides: KEY VALUE arguments, without SEED and OUTPUT_DIR.
        folder: value of OUTPUT_DIR.
        resume: whether the training goes on from a checkpoint.
        gpus: number of GPUs that the run trains on.
        without: whether the run is the control of that model and seed, trained without the residual
            branches of :data:`~lambda_det.backbone.residual_branches.CONTROLLED_STAGES`.
        zeroed: whether the weights are evaluated once more with these branches zeroed.
        pretrain: command that runs before the training, or "".
        weights: path of the weights that this command writes and the training starts from, or "".
        modules: modules that its commands import.
        finish: command that runs after it has finished, or "".
        kept: path of the JSON that is kept of the finished run, or "".
        settings: the settings that the run's numbers depend on, see
            :mod:`lambda_det.comparison.settings`.
    """

    model: str
    set: str
    seed: int
    config: str
    overrides: tuple[str, ...]
    folder: str
    resume: bool = False
    gpus: int = 1
    without: bool = False
    zeroed: bool = False
    pretrain: str = ""
    weights: str = ""
    modules: tuple[str, ...] = ()
    kept: str = ""
    finish: str = ""
    settings: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``train_net``."""
        flags = ["--resume"] if self.resume else []
        if self.gpus > 1:  # detectron2's default port would be the same for every run
            flags += ["--num-gpus", str(self.gpus), "--dist-url", "auto"]
        flags += import_words(self.modules)
        own = ["OUTPUT_DIR", self.folder, "SEED", str(self.seed)]
        return ["--config-file", self.config, *flags, *self.overrides, *own]

    @property
    def key(self) -> str:
        """The run's path below ``runs/``."""
        return run_key(self.set, self.model, self.seed, self.without)

    @property
    def name(self) -> str:
        """The name of the run in messages and tables."""
        return run_name(self.set, self.model, self.seed, self.without)

    @property
    def zeroed_folder(self) -> str:
        """The folder of the evaluation with zeroed branches."""
        return zeroed_folder(self.folder, CONTROLLED_STAGES)


def run_key(set_name: str, model: str, seed: int, without: bool = False) -> str:
    """``model/seed1``, or ``set/model/seed1`` in a suite with sets; ``…/seed1_without`` for a
    training without the residual branches."""
    folder = f"seed{seed}_without" if without else f"seed{seed}"
    return "/".join(filter(None, (set_name, model, folder)))


def run_name(set_name: str | None, model: str, seed: int, without: bool = False) -> str:
    """The name of a run in messages and tables."""
    control = f"without {NAMED_STAGES}" if without else ""
    return " ".join(filter(None, (set_name, model, f"seed {seed}", control)))


PRETRAINED_FILE = "pretrained.pth"
"""Name of the file in a run's folder with the weights that a pretraining made for it."""


def half_written(weights: str) -> str:
    """Path that a pretraining writes to; the file is renamed to ``weights`` when it is whole."""
    stem, suffix = os.path.splitext(weights)
    return f"{stem}.part{suffix}"


# Not with -m, which would look into the current folder before it looks where this package is.
_LAMBDA_DET = (
    sys.executable, "-W", "ignore", "-c",
    "import sys; sys.path[:] = filter(None, sys.path); from lambda_det_command import main; "
    "sys.exit(main())",
)  # fmt: skip


def train_command(run: Run) -> list[str]:
    """Arguments that run ``lambda_det train_net`` for a run, with this Python."""
    return [*_LAMBDA_DET, "train_net", *run.arguments]


def zeroed_command(run: Run) -> list[str]:
    """Arguments that run ``lambda_det evaluate`` with zeroed branches on a finished run's weights.

    The config is the one in the run's folder, which has the number of classes of the dataset. The
    suite's overrides follow it, because the comparison's folder may have been moved.
    """
    return [
        *_LAMBDA_DET, "evaluate", "--zeroed", ",".join(CONTROLLED_STAGES),
        *import_words(run.modules), "--config-file", os.path.join(run.folder, "config.yaml"),
        *run.overrides, "OUTPUT_DIR", run.folder, "MODEL.WEIGHTS", final_weights(run),
    ]  # fmt: skip


def final_weights(run: Run) -> str:
    """Path of the weights that a finished run was evaluated with: averaged ones if
    ``SOLVER.EMA_DECAY`` is set, else those of the last iteration."""
    averaged = run.settings["SOLVER.EMA_DECAY"]
    return os.path.join(run.folder, FINAL_AVERAGE if averaged else "model_final.pth")
