"""A LazyConfig: read, changed by words of the command line, and seen as one of our configs.

What the trainer, the checks and the reading of weights ask a config for is a handful of keys. Here
is where a LazyConfig has each of them; the network, the data and the optimiser themselves are built
from the LazyConfig alone.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lambda_det.config import get_cfg
from lambda_det.configs import find_lazy_config
from lambda_det.errors import InputError, reason_of

_BACKBONE = "model.backbone.bottom_up"
_PARTIAL = "train.partial_init"
_CHECKPOINTER = "train.checkpointer"
_TRAIN_MAPPER = "dataloader.train.mapper"

LAZY_KEYS: dict[str, tuple[str, ...]] = {
    "OUTPUT_DIR": ("train.output_dir",),
    "SEED": ("train.seed",),
    "DATASETS.COCO_FOLDER": ("train.coco_folder",),
    "DATASETS.TRAIN": ("dataloader.train.dataset.names",),
    "DATASETS.TEST": ("dataloader.test.dataset.names",),
    "DATALOADER.NUM_WORKERS": ("dataloader.train.num_workers",),
    "INPUT.FORMAT": ("model.input_format",),
    "INPUT.MASK_FORMAT": (f"{_TRAIN_MAPPER}.instance_mask_format",),
    "INPUT.LSJ.SCALE": (f"{_TRAIN_MAPPER}.augmentations.scale",),
    "INPUT.LSJ.SIZE": (f"{_TRAIN_MAPPER}.augmentations.size",),
    "MODEL.DEVICE": ("train.device",),
    "MODEL.WEIGHTS": ("train.init_checkpoint",),
    "MODEL.PIXEL_MEAN": ("model.pixel_mean",),
    "MODEL.PIXEL_STD": ("model.pixel_std",),
    "MODEL.BACKBONE.FREEZE_AT": (f"{_BACKBONE}.freeze_at",),
    "MODEL.LAMBDA_RESNET.DEPTH": (f"{_BACKBONE}.depth",),
    "MODEL.LAMBDA_RESNET.VARIANT": (f"{_BACKBONE}.variant",),
    "MODEL.LAMBDA_RESNET.STEM": (f"{_BACKBONE}.stem",),
    "MODEL.LAMBDA_RESNET.NORM": (f"{_BACKBONE}.norm",),
    "MODEL.LAMBDA_RESNET.OUT_FEATURES": (f"{_BACKBONE}.out_features",),
    "MODEL.LAMBDA_RESNET.MASK_PADDING": (f"{_BACKBONE}.mask_padding",),
    "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL": (f"{_BACKBONE}.zero_init_residual",),
    "MODEL.LAMBDA_RESNET.IDLE_STAGES": (f"{_BACKBONE}.idle_stages",),
    "MODEL.LAMBDA_RESNET.PARTIAL_INIT": (f"{_PARTIAL}.enabled",),
    "MODEL.LAMBDA_RESNET.PARTIAL_INIT_AS_IDENTITY": (f"{_PARTIAL}.as_identity",),
    "MODEL.LAMBDA_RESNET.MIN_COVERAGE": (f"{_PARTIAL}.min_coverage",),
    "MODEL.ANCHOR_GENERATOR.SIZES": (
        "model.proposal_generator.anchor_generator.sizes",
        "model.anchor_generator.sizes",
    ),
    "MODEL.ROI_HEADS.NUM_CLASSES": ("model.roi_heads.num_classes",),
    "MODEL.FPN.NORM": ("model.backbone.norm",),
    "MODEL.ROI_BOX_HEAD.NORM": ("model.roi_heads.box_head.conv_norm",),
    "MODEL.ROI_MASK_HEAD.NORM": ("model.roi_heads.mask_head.conv_norm",),
    "MODEL.RETINANET.NUM_CLASSES": ("model.num_classes",),
    "SOLVER.IMS_PER_BATCH": ("dataloader.train.total_batch_size",),
    "SOLVER.BASE_LR": ("optimizer.lr",),
    "SOLVER.WEIGHT_DECAY": ("optimizer.weight_decay",),
    "SOLVER.WEIGHT_DECAY_NORM": ("optimizer.params.weight_decay_norm",),
    "SOLVER.WEIGHT_DECAY_BIAS": ("optimizer.params.weight_decay_bias",),
    "SOLVER.MOMENTUM": ("optimizer.momentum",),
    "SOLVER.WARMUP_FACTOR": ("lr_multiplier.warmup_factor",),
    "SOLVER.MAX_ITER": ("train.max_iter",),
    "SOLVER.ACCUMULATE": ("train.accumulate",),
    "SOLVER.EMA_DECAY": ("train.ema_decay",),
    "SOLVER.MAX_SKIPPED_STEPS": ("train.max_skipped_steps",),
    "SOLVER.CHECKPOINT_PERIOD": (f"{_CHECKPOINTER}.period",),
    "SOLVER.CHECKPOINT_KEEP": (f"{_CHECKPOINTER}.max_to_keep",),
    "SOLVER.AMP.ENABLED": ("train.amp.enabled",),
    "SOLVER.AMP.PRECISION": ("train.amp.precision",),
    "TEST.BEST_METRIC": ("train.best_metric",),
    "TEST.EVAL_PERIOD": ("train.eval_period",),
    "TEST.SANITY_IMAGES": ("train.sanity_images",),
    "WANDB.ENABLED": ("train.wandb.enabled",),
    "WANDB.PROJECT": ("train.wandb.project",),
    "WANDB.NAME": ("train.wandb.name",),
}
"""Key of our config -> where a LazyConfig has it, the first place that is there."""

# Of detectron2's "train": what a training here does in any case, and what default_setup reads.
_AS_HERE = {
    "train.ddp.broadcast_buffers": False,
    "train.ddp.find_unused_parameters": False,
    "train.ddp.fp16_compression": False,
    "train.log_period": 20,
}
_READ_ELSEWHERE = "train.cudnn_benchmark"

_NEEDED = ("model", "dataloader.train", "optimizer", "lr_multiplier", "train.max_iter")


def load_lazy_config(config_file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A LazyConfig file with ``key=value`` words.

    The file is a Python program and is run.

    Args:
        config_file: path of a ``.py`` file, or name of a shipped config.
        overrides: ``train.max_iter=10``, in detectron2's (hydra's) grammar.

    Raises:
        InputError: the file is missing, is no LazyConfig, fails, or lacks a part of a training; a
            word is no ``key=value`` or names nothing.
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
    for key in _NEEDED:
        if _select(lazy, key) is None:
            raise InputError(f"--config-file {config_file}: {key} is missing, a training needs it")
    for word in overrides:
        _check_word(lazy, word)
        try:
            LazyConfig.apply_overrides(lazy, [word])
        except Exception as error:  # hydra's parser and omegaconf have many
            raise InputError(f"{word!r}: {reason_of(error)}") from error
    return lazy


def settings_of(lazy: DictConfig) -> CfgNode:
    """Our config with what :data:`LAZY_KEYS` finds, and defaults for the rest.

    Raises:
        InputError: a value has another type than its key.
    """
    cfg = get_cfg()
    for key, places in LAZY_KEYS.items():
        found = (_select(lazy, place) for place in places)
        value = next((value for value in found if value is not None), None)
        if _is_plain(value):  # a norm may be a class, a part of another network a call
            _set(cfg, key, value, places[0])
    if (length := _select(lazy, "lr_multiplier.warmup_length")) is not None:
        cfg.SOLVER.WARMUP_ITERS = round(length * cfg.SOLVER.MAX_ITER)
    cfg.MODEL.META_ARCHITECTURE = _name(lazy.model.get("_target_"))
    cfg.MODEL.MASK_ON = _select(lazy, "model.roi_heads.mask_head") is not None
    cfg.INPUT.LSJ.ENABLED = _select(lazy, f"{_TRAIN_MAPPER}.augmentations.scale") is not None
    for split in ("TRAIN", "TEST"):
        for size in resizes(lazy, split.lower()):
            sides = plain(size.short_edge_length)
            if split == "TRAIN":
                cfg.INPUT.MIN_SIZE_TRAIN = tuple(sides) if isinstance(sides, list) else (sides,)
            else:
                cfg.INPUT.MIN_SIZE_TEST = sides[0] if isinstance(sides, list) else sides
            cfg.INPUT[f"MAX_SIZE_{split}"] = size.get("max_size", cfg.INPUT[f"MAX_SIZE_{split}"])
    return cfg


def take_datasets(lazy: DictConfig, cfg: CfgNode) -> None:
    """Give ``lazy`` the names and the number of classes that ``configure_datasets`` put into
    ``cfg``."""
    for split, names in (("train", cfg.DATASETS.TRAIN), ("test", cfg.DATASETS.TEST)):
        if _select(lazy, f"dataloader.{split}.dataset.names") is not None:
            new = names[0] if len(names) == 1 else list(names)
            lazy.dataloader[split].dataset.names = new
    if _select(lazy, "model.roi_heads.num_classes") is not None:
        lazy.model.roi_heads.num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if _select(lazy, "model.num_classes") is not None:
        lazy.model.num_classes = cfg.MODEL.RETINANET.NUM_CLASSES


@contextlib.contextmanager
def lazy_words() -> Iterator[None]:
    """In an InputError of the block, a LazyConfig's keys in place of ours.

    Raises:
        InputError: in place of the other.
    """
    try:
        yield
    except InputError as error:
        text = re.sub(r"(?<![\w/.-])[A-Z][A-Z0-9_.]*[A-Z](?![\w/-])", _place_of, str(error))
        raise InputError(text) from error


def _place_of(match: re.Match) -> str:
    return LAZY_KEYS.get(match[0], match)[0]


def keys_without_effect(lazy: DictConfig) -> list[str]:
    """The keys of ``train`` that say something and that nothing here reads."""
    read = {place for places in LAZY_KEYS.values() for place in places} | {_READ_ELSEWHERE}
    said = dict(_leaves(_select(lazy, "train"), "train"))
    return [
        key
        for key in said
        if key not in read and (key not in _AS_HERE or said[key] != _AS_HERE[key])
    ]


def _leaves(node: Mapping, name: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", value


def _check_word(lazy: DictConfig, word: str) -> None:
    if word.startswith("--"):
        raise InputError(f"{word!r}: flags stand before the key=value words")
    key, equals, _ = word.partition("=")
    key = key.lstrip("+~")
    if not equals or not key:
        raise InputError(f"{word!r}: expected key=value, as train.max_iter=10")
    parent, _, last = key.rpartition(".")
    node = _select(lazy, parent) if parent else lazy
    if not isinstance(node, Mapping):
        raise InputError(f"{word!r}: there is no {parent!r} that could have keys")
    # A call takes further arguments; its signature is what knows them.
    if last not in node and "_target_" not in node:
        near = difflib.get_close_matches(last, map(str, node)) or sorted(map(str, node))
        raise InputError(f"{word!r}: there is no key {key!r}; near it: {', '.join(near)}")


def _select(lazy: DictConfig, place: str) -> Any:
    try:
        return OmegaConf.select(lazy, place)
    except OmegaConfBaseException:  # on the way there is something that has no keys
        return None


def resizes(lazy: DictConfig, split: str) -> list[DictConfig]:
    """The ``ResizeShortestEdge`` of a split's augmentations."""
    node = _select(lazy, f"dataloader.{split}.mapper.augmentations")
    if isinstance(node, Mapping):  # keep_one_pixel(augmentations=[…])
        node = node.get("augmentations")
    entries = node if isinstance(node, Sequence) else []
    return [e for e in entries if isinstance(e, Mapping) and "short_edge_length" in e]


def _set(cfg: CfgNode, key: str, value: Any, place: str) -> None:
    value = plain(value)
    default = functools.reduce(getattr, key.split("."), cfg)
    if type(default) is float and type(value) is int:  # weight_decay=0, which yacs does not take
        value = float(value)
    if key.startswith("DATASETS.") and key != "DATASETS.COCO_FOLDER":
        value = (value,) if isinstance(value, str) else tuple(value)
    try:
        cfg.merge_from_list([key, value])
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}={value!r}: {reason_of(error)}") from error


def plain(value: Any) -> Any:
    """Without omegaconf's own types."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float)) or OmegaConf.is_list(value)


def _name(target: Any) -> str:
    return str(target).rpartition(".")[2] if isinstance(target, str) else target.__name__
