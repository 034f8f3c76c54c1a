"""One training of a comparison: what it is called, where it lies, and the commands that train it
and evaluate it once more."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lambda_det.backbone.residual_branches import CONTROLLED_STAGES
from lambda_det.comparison.controls import NAMED_STAGES
from lambda_det.engine.averaging import FINAL_AVERAGE


@dataclass(frozen=True)
class Run:
    """One training: a model with a seed on a set.

    Attributes:
        model: its name in the suite.
        set: name of the set, "" in a suite without sets.
        seed: becomes SEED.
        config: path of the config file.
        overrides: KEY VALUE words, without SEED and OUTPUT_DIR.
        folder: OUTPUT_DIR.
        resume: whether to go on from a checkpoint.
        gpus: that it trains on.
        without: whether it is the control of that model and seed, trained without the residual
            branches of :data:`~lambda_det.backbone.residual_branches.CONTROLLED_STAGES`.
        zeroed: whether its weights are evaluated once more with these branches zeroed.
        pretrain: command that is run before it, or "".
        weights: the file that it starts from, which that command leaves; or "".
        kept: path of the JSON that is kept of it when it has finished, or "".
        settings: what its numbers depend on: config key -> value, the comparison's folder as
            ``{output}``.
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
    kept: str = ""
    settings: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)

    @property
    def words(self) -> list[str]:
        """The arguments of ``train_net``."""
        flags = ["--resume"] if self.resume else []
        if self.gpus > 1:  # the port of detectron2's default is the same for every run
            flags += ["--num-gpus", str(self.gpus), "--dist-url", "auto"]
        own = ["OUTPUT_DIR", self.folder, "SEED", str(self.seed)]
        return ["--config-file", self.config, *flags, *self.overrides, *own]

    @property
    def key(self) -> str:
        """``model/seed1``, with the set in front where there is one: its place below ``runs/``; of
        a training without the branches ``model/seed1_without``."""
        return run_key(self.set, self.model, self.seed, self.without)

    @property
    def name(self) -> str:
        """For people."""
        return run_name(self.set, self.model, self.seed, self.without)


def run_key(set_name: str, model: str, seed: int, without: bool = False) -> str:
    """Of a run, as :attr:`Run.key`."""
    folder = f"seed{seed}_without" if without else f"seed{seed}"
    return "/".join(filter(None, (set_name, model, folder)))


def run_name(set_name: str | None, model: str, seed: int, without: bool = False) -> str:
    """Of a run, as :attr:`Run.name`."""
    words = f"without {NAMED_STAGES}" if without else ""
    return " ".join(filter(None, (set_name, model, f"seed {seed}", words)))


PRETRAIN, PREPARE = "pretrain", "prepare"
"""Keys of a suite, and what they are called among the settings that a run's numbers depend on."""

PRETRAINED_FILE = "pretrained.pth"
"""In a run's folder: the weights that it starts from, where a pretraining makes them."""


def half_written(weights: str) -> str:
    """What a pretraining writes, to become ``weights`` when it has ended well."""
    stem, suffix = os.path.splitext(weights)
    return f"{stem}.part{suffix}"


Command = Callable[[Run], Sequence[str]]

# Not with -m, which would look into the current folder before it looks where this package is.
_LAMBDA_DET = (
    sys.executable, "-W", "ignore", "-c",
    "import sys; sys.path[:] = filter(None, sys.path); from lambda_det_command import main; "
    "sys.exit(main())",
)  # fmt: skip


def train_command(run: Run) -> list[str]:
    """``lambda_det train_net`` of this Python."""
    return [*_LAMBDA_DET, "train_net", *run.words]


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
