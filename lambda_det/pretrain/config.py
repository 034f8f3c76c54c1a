"""Every config key of pretraining: its default and its meaning.

The backbone is described by ``MODEL.LAMBDA_RESNET`` and built by the same code as in detection.
Of detectron2's keys ``MODEL.DEVICE``, ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD``,
``DATALOADER.NUM_WORKERS``, ``OUTPUT_DIR`` and ``SEED`` are read as well, and nothing else.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from lambda_det.config import get_cfg
from lambda_det.errors import InputError

SCHEDULERS = ("cosine", "tanh", "constant")


def get_pretrain_cfg() -> CfgNode:
    """detectron2's default config with lambda_det's keys and those of pretraining."""
    cfg = get_cfg()
    add_pretrain_config(cfg)
    return cfg


def add_pretrain_config(cfg: CfgNode) -> None:
    """Add the node ``PRETRAIN`` to ``cfg``; change nothing that is there. Safe to call again."""
    if "PRETRAIN" in cfg:
        return
    node = cfg.PRETRAIN = CfgNode()
    node.NUM_CLASSES = 0  # 0 = as many as the data has; else the data must have as many
    node.IMAGE_SIZE = 224  # pixels, side of the square images
    node.EPOCHS = 90
    node.BATCH_SIZE = 4096  # images per iteration, of all processes together

    node.OPTIMIZER = "momentum"  # a name of timm's; "momentum" is SGD without Nesterov
    node.MOMENTUM = 0.9
    node.LR_PER_256 = 0.1  # learning rate for 256 images per iteration; grows with BATCH_SIZE
    node.WEIGHT_DECAY = 1e-4  # not of norms and biases
    node.SCHEDULER = "cosine"  # "cosine", "tanh", "constant", each after the warm-up
    node.WARMUP_EPOCHS = 5.0  # of EPOCHS, linear
    node.WARMUP_LR = 0.0  # where the warm-up starts
    node.MIN_LR = 0.0  # where the schedule ends
    node.BF16 = False  # autocast to bfloat16

    node.LABEL_SMOOTHING = 0.1
    node.DROPOUT = 0.0  # in front of the classifier
    node.DROP_PATH_RATE = 0.0  # stochastic depth of the last block; earlier ones linearly less
    node.EMA_DECAY = 0.0  # of the averaged weights, which then are the result; 0 = no average
    node.EMA_WARMUP = False  # a shorter average at the beginning

    node.CROP_SCALE = (0.08, 1.0)  # of the image's area, in training
    node.FLIP = 0.5  # probability
    node.COLOR_JITTER = 0.0
    node.AUTO_AUGMENT = ""  # timm's notation: "rand-m15-mmax15-n2" is RandAugment
    node.RANDOM_ERASING = 0.0  # probability
    node.MIXUP = 0.0  # alpha of the beta distribution; 0 = none
    node.CUTMIX = 0.0  # the same
    node.INTERPOLATION = "bicubic"  # "bilinear", "bicubic"
    node.TEST_CROP = 0.875  # side of the centre crop / shorter side of the image

    node.EVAL_PERIOD = 1  # epochs
    node.CHECKPOINT_PERIOD = 0  # iterations; one is also written at the end of every epoch
    node.LOG_PERIOD = 20  # iterations


_AT_LEAST = {
    "NUM_CLASSES": 0, "EPOCHS": 1, "BATCH_SIZE": 1, "IMAGE_SIZE": 32, "EVAL_PERIOD": 1,
    "CHECKPOINT_PERIOD": 0, "LOG_PERIOD": 1, "LR_PER_256": 0, "WEIGHT_DECAY": 0, "MOMENTUM": 0,
    "WARMUP_EPOCHS": 0, "WARMUP_LR": 0, "MIN_LR": 0, "COLOR_JITTER": 0, "MIXUP": 0, "CUTMIX": 0,
}  # fmt: skip
_RATES = ("LABEL_SMOOTHING", "DROPOUT", "DROP_PATH_RATE", "EMA_DECAY")
_PROBABILITIES = ("FLIP", "RANDOM_ERASING")


def check_pretrain_config(cfg: CfgNode, num_processes: int = 1) -> None:
    """Raise InputError, naming the key, for a value that pretraining cannot use."""
    node = cfg.PRETRAIN
    for key, least in _AT_LEAST.items():
        if node[key] < least:
            raise InputError(f"PRETRAIN.{key}={node[key]!r}: expected at least {least}")
    for key in _RATES:
        if not 0 <= node[key] < 1:
            raise InputError(f"PRETRAIN.{key}={node[key]!r}: expected a number from 0 to below 1")
    for key in _PROBABILITIES:
        if not 0 <= node[key] <= 1:
            raise InputError(f"PRETRAIN.{key}={node[key]!r}: expected a number from 0 to 1")
    if len(node.CROP_SCALE) != 2 or not 0 < node.CROP_SCALE[0] <= node.CROP_SCALE[1] <= 1:
        raise InputError(
            f"PRETRAIN.CROP_SCALE={node.CROP_SCALE!r}: expected 0 < least <= most <= 1"
        )
    if not 0 < node.TEST_CROP <= 1:
        raise InputError(f"PRETRAIN.TEST_CROP={node.TEST_CROP!r}: expected above 0, up to 1")
    if node.SCHEDULER not in SCHEDULERS:
        raise InputError(f"PRETRAIN.SCHEDULER={node.SCHEDULER!r}: expected one of {SCHEDULERS}")
    if node.INTERPOLATION not in ("bilinear", "bicubic"):
        raise InputError(
            f"PRETRAIN.INTERPOLATION={node.INTERPOLATION!r}: expected 'bilinear' or 'bicubic'"
        )
    if node.BATCH_SIZE % num_processes:
        raise InputError(
            f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: expected a multiple of the {num_processes} "
            "processes"
        )
    if (node.MIXUP or node.CUTMIX) and node.BATCH_SIZE // num_processes % 2:
        raise InputError(
            f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: mixup and cutmix pair the images of a "
            f"process, which needs an even number of them ({node.BATCH_SIZE // num_processes} here)"
        )
    if cfg.SEED < 0:
        raise InputError(
            f"SEED={cfg.SEED}: expected 0 or more, the order of the data is made from it"
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise InputError(
            f"MODEL.BACKBONE.FREEZE_AT={cfg.MODEL.BACKBONE.FREEZE_AT}: pretraining starts from "
            "random weights, set it to 0"
        )
    if cfg.INPUT.FORMAT != "RGB":
        raise InputError(f"INPUT.FORMAT={cfg.INPUT.FORMAT!r}: images are read as 'RGB' here")
    if cfg.MODEL.DEVICE == "cpu" and cfg.MODEL.LAMBDA_RESNET.NORM == "SyncBN":
        raise InputError(
            "MODEL.LAMBDA_RESNET.NORM='SyncBN': PyTorch's needs a GPU; set it to 'BN', or to "
            "'nnSyncBN' with several processes"
        )
