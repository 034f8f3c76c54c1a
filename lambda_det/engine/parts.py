"""What a training is made of: parts, which are objects, and options, which are values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lambda_det.checkpoint.coverage import Coverage
from lambda_det.errors import InputError, key, keys_named

Results = Mapping[str, Any]
"""Task -> metric -> value; dataset -> task -> metric -> value of several datasets."""

Rule = tuple[str, Callable[[Any], bool]]
"""What is allowed, in words and as a test."""

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Value of ``RunOptions.precision`` -> the type that autocast computes in; None = no autocast."""


def is_count(value: Any, least: int) -> bool:
    """Return whether ``value`` is a whole number of at least ``least``."""
    return type(value) is int and value >= least


def is_number(value: Any) -> bool:
    """Return whether ``value`` is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def one_of(names: Iterable[str]) -> Rule:
    """The rule that a value is one of these."""
    names = tuple(names)
    return f"one of {', '.join(names)}", lambda value: value in names


def check(name: str, value: Any, rule: Rule) -> None:
    """Raise InputError if a rule does not allow the value of a config key."""
    allowed, is_allowed = rule
    if not is_allowed(value):
        raise InputError(f"{key(name)}={value!r}: expected {allowed}")


POSITIVE: Rule = ("a whole number above 0", lambda value: is_count(value, 1))
NOT_NEGATIVE: Rule = ("a whole number, not negative", lambda value: is_count(value, 0))

OF_TYPE: dict[type, Rule] = {
    int: ("a whole number", lambda value: type(value) is int),
    float: ("a number", is_number),
    bool: ("True or False", lambda value: type(value) is bool),
    str: ("text", lambda value: isinstance(value, str)),
    list: ("a list", lambda value: isinstance(value, list)),
    tuple: ("a list", lambda value: isinstance(value, tuple)),
}
"""Type of a default -> the rule of a value that has no other."""


@dataclass
class Parts:
    """The objects of a training. To change one, use ``dataclasses.replace(parts, model=…)``.

    Attributes:
        model: on its device and not in DistributedDataParallel. In training mode it maps a batch of
            ``train_loader`` to a dict of losses, or to one loss.
        optimizer: optimiser of the model's parameters.
        train_loader: at least ``max_iter`` batches, such as lists of images. If it has the
            attributes ``seed`` and ``start`` (number of its first batch), a resumed run sets them
            before it reads a batch.
        scheduler: PyTorch's schedule of the learning rate, stepped after every iteration; None =
            the rate does not change.
        evaluate: takes the model and returns its metrics; all processes call it. None = nothing is
            evaluated.
        config: the config as YAML. Checkpoints contain it, and a resumed run warns of what has
            changed.
        resume_command: the command line that goes on with the run; empty = none does.
        load_weights: takes the model and ``RunOptions.weights``, and loads these; None =
            :func:`lambda_det.checkpoint.load_weights`.
        metadata: entries that every checkpoint and every file of weights has besides.
        statistics_loader: batches for PreciseBN, see ``RunOptions.precise_bn``.
    """

    model: nn.Module
    optimizer: Optimizer
    train_loader: Iterable
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
    evaluate: Callable[[nn.Module], Results | None] | None = None
    config: str = ""
    resume_command: Sequence[str] = ()
    load_weights: Callable[[nn.Module, str], Coverage | None] | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    statistics_loader: Iterable | None = None


def _option(name: str, default: Any, rule: Rule | None = None) -> Any:
    return field(default=default, metadata={"key": name, "rule": rule or OF_TYPE[type(default)]})


@dataclass(frozen=True)
class RunOptions:
    """The values of a training.

    Attributes:
        output_dir: folder of all files that the run writes.
        max_iter: number of iterations.
        weights: file or address of the initial weights; "" = the model's own.
        seed: seed of the initial weights, which the front ends build, and of what the model draws
            where ``train_loader`` has no seed of its own; negative = not reproducible.
        eval_period: iterations between two evaluations; 0 = after the last iteration only.
        checkpoint_period: iterations between two checkpoints.
        keep: number of the newest ``model_0001234.pth`` that stay in the folder; 0 = all.
        precision: ``"float32"`` (the model's own), ``"bfloat16"`` or ``"float16"`` (a GPU only).
        accumulate: number of parts into which a process divides its batch, to need less memory.
        max_skipped: number of iterations that may be skipped because a loss or gradient is not
            finite.
        ema_decay: decay of the average of the weights that is evaluated; 0 = no average.
        ema_warmup: whether the decay starts smaller and grows to ``ema_decay``, as timm's.
        best_metric: name of the metric by which ``model_best.pth`` is chosen, such as
            ``"segm/AP"``; "" = it is not written.
        precise_bn: batches from which the running statistics are measured before an evaluation.
        wandb: project in Weights & Biases; "" = nothing is sent there.
        wandb_name: name of the run there; "" = the last folder of ``output_dir``.
        key_names: config key -> its name in messages, see :func:`lambda_det.errors.keys_named`;
            None = the options' own names.

    Raises:
        InputError: a value is not allowed.
    """

    output_dir: str = _option("OUTPUT_DIR", "./output")
    max_iter: int = _option("SOLVER.MAX_ITER", 40000, POSITIVE)
    weights: str = _option("MODEL.WEIGHTS", "")
    seed: int = _option("SEED", -1)
    eval_period: int = _option("TEST.EVAL_PERIOD", 0, NOT_NEGATIVE)
    checkpoint_period: int = _option("SOLVER.CHECKPOINT_PERIOD", 5000, POSITIVE)
    keep: int = _option("SOLVER.CHECKPOINT_KEEP", 0, NOT_NEGATIVE)
    precision: str = _option("SOLVER.AMP.PRECISION", "float32", one_of(PRECISIONS))
    accumulate: int = _option("SOLVER.ACCUMULATE", 1, POSITIVE)
    max_skipped: int = _option("SOLVER.MAX_SKIPPED_STEPS", 0, NOT_NEGATIVE)
    ema_decay: float = _option(
        "SOLVER.EMA_DECAY",
        0.0,
        ("a number from 0 (no average) to below 1", lambda x: is_number(x) and 0 <= x < 1),
    )
    ema_warmup: bool = _option("PRETRAIN.EMA_WARMUP", False)
    best_metric: str = _option("TEST.BEST_METRIC", "")
    precise_bn: int = _option("TEST.PRECISE_BN.NUM_ITER", 0, NOT_NEGATIVE)
    wandb: str = _option("WANDB.PROJECT", "")
    wandb_name: str = _option("WANDB.NAME", "")
    key_names: Mapping[str, str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        names = self.key_names
        if names is None:
            names = {f.metadata["key"]: f.name for f in fields(self) if f.metadata}
            object.__setattr__(self, "key_names", names)
        with keys_named(names):
            for option in (each for each in fields(self) if each.metadata):
                check(option.metadata["key"], getattr(self, option.name), option.metadata["rule"])
            if self.ema_decay and self.precise_bn:
                raise InputError(
                    f"{key('SOLVER.EMA_DECAY')}={self.ema_decay}: expected 0, because PreciseBN "
                    "measures statistics of the last weights, not of their average"
                )


OPTION_KEYS = {f.name: f.metadata["key"] for f in fields(RunOptions) if f.metadata}
"""Option -> config key."""

OPTION_RULES: dict[str, Rule] = {
    f.metadata["key"]: f.metadata["rule"] for f in fields(RunOptions) if f.metadata
}
"""Config key of an option -> its rule."""
