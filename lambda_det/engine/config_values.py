"""Values of detectron2's own keys that would end in a traceback, refused by name.

The keys of this project are checked where they are read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import samplers
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from fvcore.common.registry import Registry

from lambda_det.backbone.build import check_norms_of_heads
from lambda_det.errors import InputError

Rule = tuple[str, Callable[[object], bool]]
"""What is allowed, in words and as a test."""


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_POSITIVE: Rule = ("a whole number above 0", lambda value: _is_count(value, 1))
_NOT_NEGATIVE: Rule = ("a whole number, not negative", lambda value: _is_count(value, 0))
_SIZE: Rule = ("whole numbers of pixels, 0 for no resizing", lambda value: _are_sizes(value))
_RATE: Rule = ("a finite number, not negative", lambda value: _is_number(value) and value >= 0)
_COLOUR: Rule = (
    "a finite number for each channel (three, or one for grey)",
    lambda value: len(value) in (1, 3) and all(map(_is_number, value)),
)


def _are_sizes(value: object) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return bool(values) and all(_is_count(size, 0) for size in values)


def _one_of(*names: str) -> Rule:
    return "one of " + ", ".join(names), lambda value: value in names


_RULES: dict[str, Rule] = {
    "DATALOADER.NUM_WORKERS": _NOT_NEGATIVE,
    "INPUT.FORMAT": _one_of("RGB", "BGR", "L", "YUV-BT.601"),
    "INPUT.MASK_FORMAT": _one_of("bitmask", "polygon"),
    "INPUT.MIN_SIZE_TRAIN": _SIZE,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": _POSITIVE,
    "INPUT.MIN_SIZE_TEST": _NOT_NEGATIVE,
    "INPUT.MAX_SIZE_TEST": _POSITIVE,
    "MODEL.LOAD_PROPOSALS": (
        "False: proposals come in pickles, which may run code",
        lambda value: value is False,
    ),
    "MODEL.PIXEL_MEAN": _COLOUR,
    "MODEL.PIXEL_STD": _COLOUR,
    "SOLVER.ACCUMULATE": _POSITIVE,
    "SOLVER.AMP.PRECISION": _one_of("float16", "bfloat16"),
    "SOLVER.BASE_LR": _RATE,
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


def _get(cfg: CfgNode, key: str) -> object:
    return functools.reduce(getattr, key.split("."), cfg)
