"""Builds backbones from a config: the only module of this package that reads ``cfg``.

It registers three builders in detectron2's ``BACKBONE_REGISTRY``. ``MODEL.BACKBONE.NAME`` selects
one of them.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import nn

from lambda_det.backbone.architectures import lambda_block_flags
from lambda_det.backbone.kinds import LAYER_ARGUMENTS, arguments_of_kind, changed_arguments
from lambda_det.backbone.lambda_resnet import LambdaResNet, build_lambda_resnet
from lambda_det.backbone.norms import check_norm
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)


CONFIG_KEYS = {
    "depth": "MODEL.LAMBDA_RESNET.DEPTH",
    "variant": "MODEL.LAMBDA_RESNET.VARIANT",
    "stem": "MODEL.LAMBDA_RESNET.STEM",
    "norm": "MODEL.LAMBDA_RESNET.NORM",
    "out_features": "MODEL.LAMBDA_RESNET.OUT_FEATURES",
    "lambda_blocks": "MODEL.LAMBDA_RESNET.LAMBDA_BLOCKS",
    "se_stages": "MODEL.LAMBDA_RESNET.SE_STAGES",
    "se_ratio": "MODEL.LAMBDA_RESNET.SE_RATIO",
    "stride_in_1x1": "MODEL.LAMBDA_RESNET.STRIDE_IN_1X1",
    "activation": "MODEL.LAMBDA_RESNET.ACTIVATION",
    "mask_padding": "MODEL.LAMBDA_RESNET.MASK_PADDING",
    "activation_checkpointing": "MODEL.LAMBDA_RESNET.ACTIVATION_CHECKPOINTING",
    "lambda_pool": "MODEL.LAMBDA_RESNET.LAMBDA_POOL",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
    "zero_init_residual": "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL",
    "idle_stages": "MODEL.LAMBDA_RESNET.IDLE_STAGES",
    "kind": "MODEL.LAMBDA_RESNET.LAYER.KIND",
    "shared_embeddings": "MODEL.LAMBDA_RESNET.LAYER.SHARED_EMBEDDINGS",
    "lambda_norm_qv": "MODEL.LAMBDA_RESNET.LAYER.NORM",
    "query_depth": "MODEL.LAMBDA_RESNET.LAYER.QUERY_DEPTH",
    "num_heads": "MODEL.LAMBDA_RESNET.LAYER.NUM_HEADS",
    "intra_depth": "MODEL.LAMBDA_RESNET.LAYER.INTRA_DEPTH",
    "scope": "MODEL.LAMBDA_RESNET.LAYER.SCOPE",
    "max_size": "MODEL.LAMBDA_RESNET.LAYER.MAX_SIZE",
    "key_normalizer": "MODEL.LAMBDA_RESNET.LAYER.KEY_NORMALIZER",
    "query_normalizer": "MODEL.LAMBDA_RESNET.LAYER.QUERY_NORMALIZER",
    "content": "MODEL.LAMBDA_RESNET.LAYER.CONTENT",
    "position": "MODEL.LAMBDA_RESNET.LAYER.POSITION",
    "position_bias": "MODEL.LAMBDA_RESNET.LAYER.POSITION_BIAS",
    "backend": "MODEL.LAMBDA_RESNET.LAYER.BACKEND",
    "autotune": "MODEL.LAMBDA_RESNET.LAYER.AUTOTUNE",
}
"""Argument of :func:`build_lambda_resnet` -> config key that sets it."""


def lambda_resnet_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The keyword arguments of :func:`build_lambda_resnet` that ``cfg`` sets.

    With another ``LAYER.KIND`` the arguments are those of that kind; ``LAYER.OWN_DEFAULTS`` says
    which values hold where the keys have the lambda layer's defaults.
    """
    arguments = {
        argument: functools.reduce(getattr, key.split("."), cfg)
        for argument, key in CONFIG_KEYS.items()
    }
    arguments["scope"] = arguments["scope"] or "global"
    if arguments["kind"] != "lambda":
        own, changed = arguments_of_kind(arguments["kind"]), changed_arguments(arguments)
        as_set = own.keys() & set(() if cfg.MODEL.LAMBDA_RESNET.LAYER.OWN_DEFAULTS else arguments)
        for name in LAYER_ARGUMENTS - changed.keys() - as_set:
            del arguments[name]
        arguments = own | arguments
    blocks = arguments["lambda_blocks"]
    arguments["lambda_blocks"] = {
        key.lower(): "all" if choice in (["all"], ("all",)) else choice
        for key, choice in blocks.items()
    }
    return arguments


def _with_config_key(error: InputError) -> InputError:
    """The error with the argument's name at the start of its message replaced by the config key."""
    match = re.match(r"(?P<argument>\w+)(?:\['(?P<stage>\w+)'\])?", str(error))
    key = CONFIG_KEYS.get(match["argument"]) if match else None
    if match is None or key is None:
        return InputError(str(error))
    if match["stage"]:  # lambda_blocks['res4'] is a key of its own
        key = f"{key}.{match['stage'].upper()}"
    rest = str(error)[match.end() :]
    if match["argument"] in ("scope", "max_size"):  # what is "global" in Python is 0 in a config
        rest = rest.replace("scope='global'", "SCOPE 0").replace("'global'", "0")
    return InputError(key + rest)


@BACKBONE_REGISTRY.register()
def build_lambda_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LambdaResNet:
    """Build the backbone that ``cfg.MODEL.LAMBDA_RESNET`` describes, without an FPN.

    Raises:
        InputError: a key has a value that is not allowed, or ``MODEL.LAMBDA_RESNET`` is missing.
    """
    if "LAMBDA_RESNET" not in cfg.MODEL:
        raise InputError(
            "MODEL.LAMBDA_RESNET is missing from the config: call "
            "lambda_det.add_lambda_config(cfg) before merging files"
        )
    check_norms_of_heads(cfg)
    _warn_of_ignored_keys(cfg)
    _warn_of_unread_keys(cfg)
    arguments = lambda_resnet_arguments(cfg)
    try:
        backbone = build_lambda_resnet(in_channels=input_shape.channels, **arguments)
    except InputError as error:
        raise _with_config_key(error) from error
    _log_network(arguments)
    if backbone.mask_padding:
        _warn_of_unmasked_padding(cfg.MODEL.META_ARCHITECTURE)
    return backbone


def build_classifier(
    cfg: CfgNode, num_classes: int, *, drop_path_rate: float = 0.0, dropout: float = 0.0
) -> LambdaResNet:
    """Build the network that ``cfg.MODEL.LAMBDA_RESNET`` describes, with a classifier on top.

    Args:
        cfg: the config of the backbone; its ``OUT_FEATURES`` are ignored.
        num_classes, drop_path_rate, dropout: as for :func:`build_lambda_resnet`.

    Returns:
        A network that maps (N, 3, H, W) to ``{"linear": logits}`` with logits (N, num_classes).

    Raises:
        InputError: a key has a value that is not allowed.
    """
    arguments = lambda_resnet_arguments(cfg) | {"out_features": ("linear",)}
    try:
        return build_lambda_resnet(
            **arguments, num_classes=num_classes, drop_path_rate=drop_path_rate, dropout=dropout
        )
    except InputError as error:
        raise _with_config_key(error) from error


@BACKBONE_REGISTRY.register()
def build_lambda_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the backbone with an FPN p2 ... p6, as detectron2's ``build_resnet_fpn_backbone``.

    Raises:
        InputError: a key has a value that is not allowed.
    """
    bottom_up = build_lambda_resnet_backbone(cfg, input_shape)
    return _fpn(cfg, bottom_up, LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_lambda_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the backbone with an FPN p3 ... p7 for RetinaNet, as detectron2's
    ``build_retinanet_resnet_fpn_backbone``.

    Raises:
        InputError: a key has a value that is not allowed, or ``res5`` is no output feature.
    """
    bottom_up = build_lambda_resnet_backbone(cfg, input_shape)
    shapes = bottom_up.output_shape()
    if "res5" not in shapes:
        raise InputError(
            f"MODEL.LAMBDA_RESNET.OUT_FEATURES={cfg.MODEL.LAMBDA_RESNET.OUT_FEATURES}: RetinaNet's "
            "p6 and p7 are made from 'res5', which is missing"
        )
    top = LastLevelP6P7(shapes["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _fpn(cfg, bottom_up, top)


def _fpn(cfg: CfgNode, bottom_up: LambdaResNet, top_block: nn.Module) -> FPN:
    available = list(bottom_up.output_shape())
    if not cfg.MODEL.FPN.IN_FEATURES:
        raise InputError(f"MODEL.FPN.IN_FEATURES=[]: expected features among {available}")
    for name in cfg.MODEL.FPN.IN_FEATURES:
        if name not in available:
            raise InputError(
                f"MODEL.FPN.IN_FEATURES: {name!r} is not in MODEL.LAMBDA_RESNET.OUT_FEATURES="
                f"{available}"
            )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def check_norms_of_heads(cfg: CfgNode) -> None:
    """Raise InputError if the installed detectron2 does not know a norm of the FPN or of a head."""
    for node in ("FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        check_norm(f"MODEL.{node}.NORM", cfg.MODEL[node].NORM)


def _warn_of_ignored_keys(cfg: CfgNode) -> None:
    """Warn if MODEL.RESNETS keys were set: a LambdaResNet reads MODEL.LAMBDA_RESNET instead."""
    node = cfg.MODEL.LAMBDA_RESNET
    defaults = get_cfg().MODEL.RESNETS
    ignored = [
        f"MODEL.RESNETS.{key}={value!r}"
        for key, value in cfg.MODEL.RESNETS.items()
        if value != defaults.get(key) and value != node.get(key)
    ]
    if ignored:
        logger.warning(
            "a LambdaResNet reads MODEL.LAMBDA_RESNET and ignores %s", ", ".join(ignored)
        )


# Keys of lambda_det that only its engine reads, with the values that ask for nothing.
_ENGINE_KEYS = {
    "INPUT.LSJ.ENABLED": False,
    "MODEL.LAMBDA_RESNET.MEASURE_NORMS": 0,
    "SOLVER.ACCUMULATE": 1,
    "SOLVER.CHECKPOINT_KEEP": 0,
    "SOLVER.EMA_DECAY": 0.0,
    "SOLVER.MAX_SKIPPED_STEPS": 0,
    "TEST.BEST_METRIC": "",
    "WANDB.ENABLED": False,
}

_all_keys_are_read: ContextVar[bool] = ContextVar("all_keys_are_read", default=False)


def build_detector(cfg: CfgNode) -> nn.Module:
    """Build the model of a config, for a caller that reads every key it needs.

    detectron2's ``build_model`` builds the same model. With a LambdaResNet it also warns of the
    keys of lambda_det that detectron2's own trainers do not read.
    """
    token = _all_keys_are_read.set(True)
    try:
        return build_model(cfg)
    finally:
        _all_keys_are_read.reset(token)


def _warn_of_unread_keys(cfg: CfgNode) -> None:
    """Warn of keys that a script of detectron2 does not read.

    ``lambda_det.data.configure_datasets`` sets DATASETS.TRAIN and TEST to the datasets in
    DATASETS.COCO_FOLDER. detectron2's own scripts do not call it, so they would use other data.
    """
    if _all_keys_are_read.get():
        return
    folder, names = cfg.DATASETS.get("COCO_FOLDER"), (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if folder and names and not any(name.startswith("coco_folder_") for name in names):
        logger.warning(
            "DATASETS.COCO_FOLDER=%r is not read by this script, which uses the datasets %s: call "
            "lambda_det.data.configure_datasets(cfg), or see docs/detectron2.md",
            folder, ", ".join(names),
        )  # fmt: skip
    unread = {}
    for name, idle in _ENGINE_KEYS.items():
        value: Any = cfg
        for part in name.split("."):
            value = value.get(part, {})
        if value not in ({}, idle):
            unread[name] = value
    amp = cfg.SOLVER.AMP
    if amp.ENABLED and amp.get("PRECISION", "float16") != "float16":  # detectron2's own
        unread["SOLVER.AMP.PRECISION"] = amp.PRECISION
    if unread:
        logger.warning(
            "a trainer of detectron2 does not read %s: use parts_from_cfg and run of "
            "lambda_det.engine to train with them, see docs/detectron2.md",
            ", ".join(f"{name}={value!r}" for name, value in unread.items()),
        )


def _log_network(arguments: Mapping[str, Any]) -> None:
    depth, variant = arguments["depth"], arguments["variant"]
    flags = lambda_block_flags(depth, variant, arguments["lambda_blocks"])
    places = [
        f"{stage} {', '.join(str(i) for i, is_lambda in enumerate(blocks, 1) if is_lambda)}"
        if not all(blocks)
        else f"all of {stage}"
        for stage, blocks in flags.items()
        if any(blocks)
    ]
    logger.info(
        "backbone: depth %d, variant %r, stem %r, %s layers in %s",
        depth, variant, arguments["stem"], arguments["kind"], "; ".join(places) or "no block",
    )  # fmt: skip


def _warn_of_unmasked_padding(name: str) -> None:
    """Warn if the meta-architecture ``name`` cannot tell the backbone the sizes of its images."""
    if name in META_ARCH_REGISTRY and not hasattr(META_ARCH_REGISTRY.get(name), "preprocess_image"):
        logger.warning(
            "MODEL.LAMBDA_RESNET.MASK_PADDING has no effect: MODEL.META_ARCHITECTURE=%r has no "
            "method preprocess_image; call lambda_det.backbone.attach_image_sizes in its forward",
            name,
        )
