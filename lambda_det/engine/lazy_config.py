"""Reading of a LazyConfig, and the places in it of what a training needs."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_det.checkpoint.rules import MIN_COVERAGE_KEY
from lambda_det.config import get_cfg
from lambda_det.configs import find_lazy_config
from lambda_det.engine.parts import OF_TYPE, OPTION_RULES, is_number
from lambda_det.errors import InputError, reason_of

logger = logging.getLogger(__name__)

BACKBONE = "model.backbone.bottom_up"
MAPPER = "dataloader.train.mapper"

LAZY_NAMES = {
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "DATALOADER.SKIP_UNREADABLE": "dataloader.train.skip_unreadable",
    "DATASETS.COCO_FOLDER": "train.coco_folder",
    "DATASETS.STRICT": "train.strict",
    "DATASETS.VAL_SHARE": "train.val_share",
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATASETS.TEST": "dataloader.test.dataset.names",
    "INPUT.EXIF": f"{MAPPER}.exif",
    "INPUT.WHITE_LEVEL": f"{MAPPER}.white_level",
    "INPUT.MAX_PIXELS": f"{MAPPER}.max_pixels",
    "INPUT.FORMAT": "model.input_format",
    "INPUT.LSJ.SCALE": f"{MAPPER}.augmentations.scale",
    "INPUT.LSJ.SIZE": f"{MAPPER}.augmentations.size",
    "INPUT.MIN_SIZE_TRAIN": "short_edge_length",
    "INPUT.MAX_SIZE_TRAIN": "max_size",
    "MODEL.DEVICE": "train.device",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "MODEL.KEYPOINT_ON": "model.roi_heads.keypoint_in_features",
    "MODEL.PIXEL_MEAN": "model.pixel_mean",
    "MODEL.PIXEL_STD": "model.pixel_std",
    "MODEL.ANCHOR_GENERATOR.SIZES": "anchor_generator.sizes",
    "MODEL.BACKBONE.FREEZE_AT": f"{BACKBONE}.freeze_at",
    "MODEL.LAMBDA_RESNET.NORM": f"{BACKBONE}.norm",
    "MODEL.LAMBDA_RESNET.STRIDE_IN_1X1": f"{BACKBONE}.stride_in_1x1",
    "MODEL.LAMBDA_RESNET.ACTIVATION": f"{BACKBONE}.activation",
    "MODEL.LAMBDA_RESNET.LAMBDA_POOL": f"{BACKBONE}.lambda_pool",
    "MODEL.LAMBDA_RESNET.LAYER.KIND": f"{BACKBONE}.kind",
    "MODEL.LAMBDA_RESNET.LAYER.NUM_HEADS": f"{BACKBONE}.num_heads",
    "MODEL.LAMBDA_RESNET.LAYER.SCOPE": f"{BACKBONE}.scope",
    "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL": f"{BACKBONE}.zero_init_residual",
    "MODEL.LAMBDA_RESNET.PARTIAL_INIT": "train.partial_init.enabled",
    "MODEL.LAMBDA_RESNET.PARTIAL_INIT_AS_IDENTITY": "train.partial_init.as_identity",
    MIN_COVERAGE_KEY: "train.partial_init.min_coverage",
    "MODEL.ROI_HEADS.NUM_CLASSES": "model.roi_heads.num_classes",
    "MODEL.RETINANET.NUM_CLASSES": "model.num_classes",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.WARMUP_ITERS": "lr_multiplier.warmup_length * train.max_iter",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.ACCUMULATE": "train.accumulate",
    "SOLVER.EMA_DECAY": "train.ema_decay",
    "SOLVER.MAX_SKIPPED_STEPS": "train.max_skipped_steps",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "SOLVER.CHECKPOINT_KEEP": "train.checkpointer.max_to_keep",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.AMP.PRECISION": "train.amp.precision",
    "TEST.BEST_METRIC": "train.best_metric",
    "TEST.DETECTIONS_PER_IMAGE": "dataloader.evaluator.max_detections",
    "TEST.EVAL_PERIOD": "train.eval_period",
    "WANDB.ENABLED": "train.wandb.enabled",
    "WANDB.PROJECT": "train.wandb.project",
    "WANDB.NAME": "train.wandb.name",
}
"""Config key -> its place in a LazyConfig."""

# Keys of detectron2's "train" with the value that a training here has in any case.
_FIXED = {
    "train.ddp.broadcast_buffers": False,
    "train.ddp.find_unused_parameters": False,
    "train.ddp.fp16_compression": False,
    "train.log_period": 20,
}
_READ_ELSEWHERE = "train.cudnn_benchmark"  # by default_setup
_NEEDED = ("model", "dataloader.train", "optimizer", "lr_multiplier", "train.max_iter")


def load_lazy_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Read a LazyConfig. The file is a Python program and is run.

    Args:
        config_file: path of a ``.py`` file, or name of a shipped config.
        overrides: ``train.max_iter=10``, in detectron2's (hydra's) grammar.

    Raises:
        InputError: the file is missing, is no LazyConfig, fails, or lacks a part of a training; an
            override is no ``key=value`` or names no key.
    """
    path = find_lazy_config(config_file)
    if not path or not os.path.isfile(path):
        raise InputError(f"--config-file {config_file}: no such file")
    if not path.endswith(".py"):
        raise InputError(
            f"--config-file {config_file}: a LazyConfig is a .py file; train_net takes YAML"
        )
    try:
        lazy = LazyConfig.load(path)
    except Exception as error:  # whatever the program raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InputError(f"--config-file {config_file}: {reason}") from error
    for name in _NEEDED:
        if select(lazy, name) is None:
            raise InputError(f"--config-file {config_file}: {name} is missing, a training needs it")
    for word in overrides:
        _check_override(lazy, word)
        try:
            LazyConfig.apply_overrides(lazy, [word])
        except Exception as error:  # hydra's parser and omegaconf have many
            raise InputError(f"{word!r}: {reason_of(error)}") from error
    return lazy


def select(lazy: DictConfig, place: str) -> Any:
    """Return what a LazyConfig has at a place such as ``train.max_iter``; None if nothing."""
    try:
        return OmegaConf.select(lazy, place) if place else None
    except OmegaConfBaseException:  # on the way there is something that has no keys
        return None


def config_of(lazy: DictConfig) -> CfgNode:
    """Return the YAML config of the values of a LazyConfig that have a key of the same meaning.

    Its checks and its options are those of the LazyConfig, too. What a LazyConfig does not say, or
    says by a call, such as a class of norms, has its default here.

    Raises:
        InputError: a value is of another type than the key's.
    """
    cfg = get_cfg()
    for name, place in LAZY_NAMES.items():
        value = select(lazy, place)
        if OmegaConf.is_list(value):
            value = OmegaConf.to_container(value)
        is_plain = isinstance(value, (str, int, float, list))
        if value is None or not (is_plain or name in OPTION_RULES) or name == "MODEL.KEYPOINT_ON":
            continue  # a head is there or not, see below
        *parents, last = name.split(".")
        node = functools.reduce(getattr, parents, cfg)
        node[last] = _as_type_of(node[last], value, name, place)
    cfg.MODEL.MASK_ON = has_head(lazy, "mask_head")
    cfg.MODEL.KEYPOINT_ON = has_head(lazy, "keypoint_head")
    warm_up = select(lazy, "lr_multiplier.warmup_length") or 0
    if not is_number(warm_up) or not is_number(warm_up * cfg.SOLVER.MAX_ITER):
        raise InputError(f"lr_multiplier.warmup_length={warm_up!r}: expected a finite number")
    cfg.SOLVER.WARMUP_ITERS = round(warm_up * cfg.SOLVER.MAX_ITER)
    return cfg


def _as_type_of(default: Any, value: Any, name: str, place: str) -> Any:
    if name in ("DATASETS.TRAIN", "DATASETS.TEST") and isinstance(value, str):
        value = [value]
    if name == "MODEL.LAMBDA_RESNET.LAYER.SCOPE" and value == "global":
        value = 0
    for kind, others in ((float, int), (tuple, list)):
        if type(default) is kind and type(value) is others:
            value = kind(value)
    if type(value) is not type(default):
        allowed, _ = OPTION_RULES.get(name) or OF_TYPE[type(default)]
        raise InputError(f"{place}={value!r}: expected {allowed}")
    return value


def has_head(lazy: DictConfig, name: str) -> bool:
    """Return whether a model has ``mask_head`` or ``keypoint_head``."""
    features = f"{name.removesuffix('head')}in_features"  # None turns a head off
    heads = select(lazy, "model.roi_heads") or {}
    return heads.get(name) is not None and heads.get(features, name) is not None


def as_yaml(lazy: DictConfig) -> str:
    """Return a LazyConfig as YAML, with the names of what it calls; the same in every process."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(item) for name, item in value.items()}
        if OmegaConf.is_list(value) or isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, (str, int, float, bool, type(None))):
            return value
        named = callable(value) and hasattr(value, "__qualname__")  # a class or a function
        if named:
            return f"{value.__module__}.{value.__qualname__}"
        return re.sub(r" at 0x[0-9a-f]+", "", str(value))  # another one in every process

    return yaml.safe_dump(plain(lazy), sort_keys=False)


def warn_of_keys_without_effect(lazy: DictConfig) -> None:
    """Warn of the keys of ``train`` that are set and that nothing here reads."""
    read = {*LAZY_NAMES.values(), _READ_ELSEWHERE}
    said = dict(_leaves(select(lazy, "train"), "train"))
    idle = [
        name
        for name in said
        if name not in read and (name not in _FIXED or said[name] != _FIXED[name])
    ]
    if idle:
        logger.warning("%s: nothing here reads it", ", ".join(idle))


def _leaves(node: Mapping, name: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def _check_override(lazy: DictConfig, word: str) -> None:
    if word.startswith("--"):
        raise InputError(f"{word!r}: options stand before the key=value overrides")
    name, equals, _ = word.partition("=")
    name = name.lstrip("+~")
    if not equals or not name:
        raise InputError(f"{word!r}: expected key=value, as train.max_iter=10")
    parent, _, last = name.rpartition(".")
    node = select(lazy, parent) if parent else lazy
    if not isinstance(node, Mapping):
        raise InputError(f"{word!r}: there is no {parent!r} that could have keys")
    # A call takes further arguments; its signature is what knows them.
    if last not in node and "_target_" not in node:
        near = difflib.get_close_matches(last, map(str, node)) or sorted(map(str, node))
        raise InputError(f"{word!r}: there is no key {name!r}; near it: {', '.join(near)}")
