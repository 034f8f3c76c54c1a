"""From command-line arguments to a checked, frozen config."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import samplers
from detectron2.engine import default_setup
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.registry import Registry

from lambda_det.backbone.build import check_norms_of_heads
from lambda_det.config import get_cfg
from lambda_det.configs import find_config, merge_config, read_config
from lambda_det.data import configure_datasets
from lambda_det.engine.checks import Recipe, check_settings
from lambda_det.errors import InputError
from lambda_det.io import write_bytes

logger = logging.getLogger(__name__)

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def split_overrides(words: list[str], opts: list[str]) -> tuple[list[str], list[str]]:
    """The words of a flag that takes many, and all ``KEY VALUE`` pairs.

    Pairs that stand directly behind such a flag are told by the first node of a key.

    Args:
        words: of the flag; the first is one of its own.
        opts: the pairs that stand elsewhere.
    """
    for index, word in enumerate(words):
        first, dot, _ = word.partition(".")
        if index and dot and first.isupper() and not os.path.exists(word) and first in get_cfg():
            return words[:index], words[index:] + opts
    return words, opts


def setup_config(args: Namespace) -> CfgNode:
    """The config of a run, checked; logging and the output folder are set up too.

    Args:
        args: of detectron2's ``default_argument_parser``.

    Raises:
        InputError: a file, key or value is wrong; the line names it.
    """
    setup_console()
    layers = read_config(args.config_file)
    cfg = merge_config(layers, args.opts)
    args = Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    check_values(cfg)
    check_device(cfg)
    configure_datasets(cfg, for_training=not args.eval_only)
    start_run(cfg, args)
    if not args.eval_only:
        check_settings(cfg, Recipe.of(layers, args.opts))
    return cfg


def setup_console() -> None:
    """Show this package's log lines on the screen of the main process."""
    setup_logger(distributed_rank=comm.get_rank(), name="lambda_det", abbrev_name="lambda_det")


def start_run(cfg: CfgNode, args: Namespace, written: object = None) -> None:
    """Freeze the config, make the output folder, write the config and the log into it.

    An evaluation leaves the ``config.yaml`` of the training whose folder it is: a later
    ``--resume`` reads it.

    Args:
        cfg: the config.
        args: of the command line, to be logged.
        written: what is written in place of ``cfg``: the LazyConfig that it is a view of.

    Raises:
        InputError: ``OUTPUT_DIR`` is a file or cannot be written.
    """
    if os.path.exists(cfg.OUTPUT_DIR) and not os.path.isdir(cfg.OUTPUT_DIR):
        raise InputError(f"OUTPUT_DIR={cfg.OUTPUT_DIR!r}: is a file, not a folder")
    cfg.freeze()
    try:
        with _kept(cfg.OUTPUT_DIR if getattr(args, "eval_only", False) else None):
            default_setup(cfg if written is None else written, args)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"OUTPUT_DIR={cfg.OUTPUT_DIR!r}: cannot be written ({reason})") from error
    # detectron2's log file takes our lines too; the console has its handler already.
    file_handlers: list[logging.Handler] = [
        handler
        for handler in logging.getLogger("detectron2").handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stdout
    ]
    own = logging.getLogger("lambda_det")
    own.handlers = own.handlers[:1] + file_handlers


@contextlib.contextmanager
def _kept(folder: str | None) -> Iterator[None]:
    """What the block writes to the folder's ``config.yaml`` is not kept if there was one before."""
    path = os.path.join(folder, "config.yaml") if folder and comm.is_main_process() else ""
    if not os.path.isfile(path):
        yield
        return
    with open(path, "rb") as file:
        before = file.read()
    try:
        yield
    finally:
        write_bytes(before, path)


Rule = tuple[str, Callable[[Any], bool]]
"""What is allowed, in words and as a test."""


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_colour(values: Sequence) -> bool:
    return len(values) in (1, 3) and all(map(_is_number, values))


def _one_of(*names: str) -> Rule:
    return "one of " + ", ".join(names), lambda value: value in names


_POSITIVE: Rule = ("a whole number above 0", lambda value: _is_count(value, 1))
_NOT_NEGATIVE: Rule = ("a whole number, not negative", lambda value: _is_count(value, 0))
_RULES: dict[str, Rule] = {
    "DATALOADER.NUM_WORKERS": _NOT_NEGATIVE,
    "INPUT.FORMAT": _one_of("RGB", "BGR", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": _one_of("bitmask", "polygon"),
    "INPUT.MIN_SIZE_TRAIN": (
        "whole numbers of pixels, 0 for no resizing",
        lambda values: len(values) > 0 and all(_is_count(size, 0) for size in values),
    ),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": _POSITIVE,
    "INPUT.MIN_SIZE_TEST": _NOT_NEGATIVE,
    "INPUT.MAX_SIZE_TEST": _POSITIVE,
    "MODEL.LOAD_PROPOSALS": (
        "False: proposals come in pickles, which may run code",
        lambda value: value is False,
    ),
    "MODEL.PIXEL_MEAN": (
        "a finite number for each channel (three, or one for grey)",
        _is_colour,
    ),
    "MODEL.PIXEL_STD": (
        "a finite number above 0 for each channel (three, or one for grey)",
        lambda values: _is_colour(values) and min(values) > 0,
    ),
    "SOLVER.ACCUMULATE": _POSITIVE,
    "SOLVER.AMP.PRECISION": _one_of("float16", "bfloat16"),
    "SOLVER.BASE_LR": (
        "a finite number, not negative",
        lambda value: _is_number(value) and value >= 0,
    ),
    "SOLVER.CHECKPOINT_KEEP": _NOT_NEGATIVE,
    "SOLVER.CHECKPOINT_PERIOD": _POSITIVE,
    "SOLVER.EMA_DECAY": (
        "a number from 0 (no average) on and below 1",
        lambda value: _is_number(value) and 0 <= value < 1,
    ),
    "SOLVER.IMS_PER_BATCH": _POSITIVE,
    "SOLVER.LR_SCHEDULER_NAME": _one_of(
        "WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    ),
    "SOLVER.MAX_ITER": _POSITIVE,
    "SOLVER.MAX_SKIPPED_STEPS": _NOT_NEGATIVE,
    "SOLVER.WARMUP_ITERS": _NOT_NEGATIVE,
    "SOLVER.WARMUP_METHOD": _one_of("linear", "constant"),
    "TEST.DETECTIONS_PER_IMAGE": (
        "a whole number, -1 for all",
        lambda value: _is_count(value, -1),
    ),
    "TEST.EVAL_PERIOD": _NOT_NEGATIVE,
    "TEST.SANITY_IMAGES": _NOT_NEGATIVE,
}

_REGISTRIES: dict[str, tuple[Registry, tuple[str, ...]]] = {
    "MODEL.META_ARCHITECTURE": (META_ARCH_REGISTRY, ()),
    "MODEL.BACKBONE.NAME": (BACKBONE_REGISTRY, ()),
    "MODEL.ANCHOR_GENERATOR.NAME": (ANCHOR_GENERATOR_REGISTRY, ()),
    "MODEL.PROPOSAL_GENERATOR.NAME": (PROPOSAL_GENERATOR_REGISTRY, ("PrecomputedProposals",)),
    "MODEL.ROI_HEADS.NAME": (ROI_HEADS_REGISTRY, ()),
    "MODEL.ROI_BOX_HEAD.NAME": (ROI_BOX_HEAD_REGISTRY, ("",)),
    "MODEL.ROI_MASK_HEAD.NAME": (ROI_MASK_HEAD_REGISTRY, ()),
}


def check_values(cfg: CfgNode) -> None:
    """Raise InputError for the first value that detectron2 would stop at, or misread.

    A ``MODEL.LOAD_PROPOSALS`` is refused, because detectron2 unpickles what it names.
    """
    for key, (allowed, is_allowed) in _RULES.items():
        value = _get(cfg, key)
        if not is_allowed(value):
            raise InputError(f"{key}={value!r}: expected {allowed}")
    for key, (registry, more) in _REGISTRIES.items():
        if (value := _get(cfg, key)) not in registry and value not in more:
            names = sorted(name for name, _ in registry)
            raise InputError(f"{key}={value!r}: expected one of {', '.join(names)}")
    check_norms_of_heads(cfg)
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and len(sizes) != 2:
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN={sizes!r}: expected the smallest and the largest size, because "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'"
        )
    if cfg.SOLVER.EMA_DECAY and cfg.TEST.PRECISE_BN.ENABLED:
        raise InputError(
            f"SOLVER.EMA_DECAY={cfg.SOLVER.EMA_DECAY}: expected 0, because TEST.PRECISE_BN "
            "measures statistics of the last weights, not of their average"
        )
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if not (sampler.endswith("TrainingSampler") and hasattr(samplers, sampler)):
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN={sampler!r}: expected TrainingSampler or "
            "RepeatFactorTrainingSampler"
        )


def check_device(cfg: CfgNode) -> None:
    """Check MODEL.DEVICE and what depends on it; turn off AMP where it cannot be, and say so.

    Raises:
        InputError: there is no such device.
    """
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(
            f"MODEL.DEVICE={cfg.MODEL.DEVICE!r}: PyTorch has no such device; expected cpu or cuda"
        ) from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"MODEL.DEVICE={cfg.MODEL.DEVICE!r}: PyTorch sees no GPU here; add MODEL.DEVICE cpu"
        )
    if cfg.MODEL.DEVICE == "cpu" and precision(cfg) is torch.float16:
        logger.warning(
            "SOLVER.AMP.ENABLED with PRECISION float16 needs a GPU: training in float32 on the CPU "
            "instead (SOLVER.AMP.PRECISION bfloat16 works there)"
        )
        cfg.SOLVER.AMP.ENABLED = False


def precision(cfg: CfgNode) -> torch.dtype | None:
    """The type that autocast computes in; None = no autocast."""
    return PRECISIONS[cfg.SOLVER.AMP.PRECISION] if cfg.SOLVER.AMP.ENABLED else None


def _get(cfg: CfgNode, key: str) -> object:
    return functools.reduce(getattr, key.split("."), cfg)
