"""The values that a YAML config may have, where detectron2 would stop at one or misread it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import samplers
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
)
from detectron2.solver.build import GradientClipType
from fvcore.common.registry import Registry

from lambda_det.backbone.build import check_norms_of_heads
from lambda_det.checkpoint.folded_norms import MEASURE_NORMS_KEY
from lambda_det.config import EXIF_MODES
from lambda_det.engine.parts import (
    NOT_NEGATIVE,
    OPTION_KEYS,
    OPTION_RULES,
    POSITIVE,
    Rule,
    RunOptions,
    check,
    is_count,
    is_number,
    one_of,
)
from lambda_det.errors import InputError


def options_from_cfg(cfg: CfgNode, key_names: Mapping[str, str] | None = None) -> RunOptions:
    """Read the options of the training that a config describes.

    Args:
        cfg: the config.
        key_names: the user's names of the keys, see :class:`RunOptions`; None = the keys.

    Raises:
        InputError: a value is not allowed.
    """
    values = {
        option: _get(cfg, name)
        for option, name in OPTION_KEYS.items()
        if name.partition(".")[0] in cfg and not name.startswith("PRETRAIN.")
    }
    if not cfg.SOLVER.AMP.ENABLED:
        values["precision"] = "float32"
    if not cfg.TEST.PRECISE_BN.ENABLED:
        values["precise_bn"] = 0
    if not cfg.WANDB.ENABLED:
        values["wandb"] = ""
    return RunOptions(**values, key_names=key_names or {})


def _is_colour(values: Sequence) -> bool:
    return len(values) in (1, 3) and all(map(is_number, values))


_RULES: dict[str, Rule] = {
    "DATALOADER.NUM_WORKERS": NOT_NEGATIVE,
    "INPUT.EXIF": one_of(EXIF_MODES),
    "INPUT.FORMAT": one_of(("RGB", "BGR", "L", "YUV-BT.601")),
    "INPUT.MAX_PIXELS": POSITIVE,
    "INPUT.WHITE_LEVEL": (
        "the value of white in 16-bit images, from 1 to 65535, or 0 for 65535",
        lambda value: is_count(value, 0) and value <= 65535,
    ),
    "INPUT.MASK_FORMAT": one_of(("bitmask", "polygon")),
    "INPUT.MIN_SIZE_TRAIN": (
        "whole numbers of pixels, 0 for no resizing",
        lambda values: len(values) > 0 and all(is_count(size, 0) for size in values),
    ),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of(("choice", "range")),
    "INPUT.MAX_SIZE_TRAIN": POSITIVE,
    "INPUT.MIN_SIZE_TEST": NOT_NEGATIVE,
    "INPUT.MAX_SIZE_TEST": POSITIVE,
    MEASURE_NORMS_KEY: NOT_NEGATIVE,
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
    "SOLVER.AMP.PRECISION": OPTION_RULES["SOLVER.AMP.PRECISION"],  # also where AMP is off
    "SOLVER.BASE_LR": (
        "a finite number, not negative",
        lambda value: is_number(value) and value >= 0,
    ),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of(kind.value for kind in GradientClipType),
    "SOLVER.IMS_PER_BATCH": POSITIVE,
    "SOLVER.LR_SCHEDULER_NAME": one_of(
        ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")
    ),
    "SOLVER.WARMUP_ITERS": NOT_NEGATIVE,
    "SOLVER.WARMUP_METHOD": one_of(("linear", "constant")),
    "TEST.AUG.MIN_SIZES": (
        "whole numbers of pixels above 0",
        lambda values: len(values) > 0 and all(is_count(size, 1) for size in values),
    ),
    "TEST.AUG.MAX_SIZE": POSITIVE,
    "TEST.DETECTIONS_PER_IMAGE": (
        "a whole number, -1 for all",
        lambda value: is_count(value, -1),
    ),
}

_REGISTRIES: dict[str, tuple[Registry, tuple[str, ...]]] = {
    "MODEL.META_ARCHITECTURE": (META_ARCH_REGISTRY, ()),
    "MODEL.BACKBONE.NAME": (BACKBONE_REGISTRY, ()),
    "MODEL.ANCHOR_GENERATOR.NAME": (ANCHOR_GENERATOR_REGISTRY, ()),
    "MODEL.PROPOSAL_GENERATOR.NAME": (PROPOSAL_GENERATOR_REGISTRY, ("PrecomputedProposals",)),
    "MODEL.ROI_HEADS.NAME": (ROI_HEADS_REGISTRY, ()),
    "MODEL.ROI_BOX_HEAD.NAME": (ROI_BOX_HEAD_REGISTRY, ("",)),
    "MODEL.ROI_MASK_HEAD.NAME": (ROI_MASK_HEAD_REGISTRY, ()),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": (ROI_KEYPOINT_HEAD_REGISTRY, ()),
}


def check_values(cfg: CfgNode) -> None:
    """Raise InputError for the first value that detectron2 would stop at, or misread.

    The values of :class:`RunOptions` are checked, too. ``MODEL.LOAD_PROPOSALS`` is refused, because
    detectron2 unpickles what it names.
    """
    for name, rule in _RULES.items():
        check(name, _get(cfg, name), rule)
    for name, (registry, more) in _REGISTRIES.items():
        if (value := _get(cfg, name)) not in registry and value not in more:
            known = sorted(one for one, _ in registry)
            raise InputError(f"{name}={value!r}: expected one of {', '.join(known)}")
    _check_augmented(cfg)
    options_from_cfg(cfg)
    check_norms_of_heads(cfg)
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and len(sizes) != 2:
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN={sizes!r}: expected the smallest and the largest size, because "
            "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'"
        )
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if not (sampler.endswith("TrainingSampler") and hasattr(samplers, sampler)):
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN={sampler!r}: expected TrainingSampler or "
            "RepeatFactorTrainingSampler"
        )


def _check_augmented(cfg: CfgNode) -> None:
    name = cfg.MODEL.META_ARCHITECTURE
    kind = META_ARCH_REGISTRY.get(name)
    is_rcnn = isinstance(kind, type) and issubclass(kind, GeneralizedRCNN)
    supported = is_rcnn and not issubclass(kind, PanopticFPN) and not cfg.MODEL.KEYPOINT_ON
    if cfg.TEST.AUG.ENABLED and not supported:
        raise InputError(
            "TEST.AUG.ENABLED=True: expected False, because detectron2's test-time augmentation is "
            f"for GeneralizedRCNN without keypoints; MODEL.META_ARCHITECTURE={name!r}, "
            f"MODEL.KEYPOINT_ON={cfg.MODEL.KEYPOINT_ON}"
        )


def _get(cfg: CfgNode, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), cfg)
