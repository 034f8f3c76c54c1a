"""All config keys of pretraining with their defaults and meanings.

MODEL.LAMBDA_RESNET describes the backbone, as in detection. Of detectron2's keys, pretraining reads
MODEL.DEVICE, PIXEL_MEAN and PIXEL_STD, DATALOADER.NUM_WORKERS, OUTPUT_DIR and SEED only; of
lambda_det's, SOLVER.MAX_SKIPPED_STEPS and WANDB.
"""

from __future__ import annotations

from detectron2.config import CfgNode

from lambda_det.config import get_cfg
from lambda_det.engine.parts import NOT_NEGATIVE, POSITIVE, Rule, check, is_number, one_of
from lambda_det.errors import InputError


def get_pretrain_cfg() -> CfgNode:
    """Return detectron2's default config with the keys of lambda_det and of pretraining."""
    cfg = get_cfg()
    add_pretrain_config(cfg)
    return cfg


def add_pretrain_config(cfg: CfgNode) -> None:
    """Add the node PRETRAIN to ``cfg``; do nothing if it exists."""
    if "PRETRAIN" in cfg:
        return
    node = cfg.PRETRAIN = CfgNode()
    # Number of classes that the data must have; 0 = any number.
    node.NUM_CLASSES = 0
    node.IMAGE_SIZE = 224  # side of the square images in pixels
    node.EPOCHS = 90
    node.BATCH_SIZE = 4096  # images per iteration, summed over all processes

    # A name of timm's create_optimizer_v2. "momentum" is SGD without Nesterov momentum.
    node.OPTIMIZER = "momentum"
    node.MOMENTUM = 0.9
    # The learning rate is LR_PER_256 * BATCH_SIZE / 256.
    node.LR_PER_256 = 0.1
    node.WEIGHT_DECAY = 1e-4  # not applied to norms and biases
    node.SCHEDULER = "cosine"  # "cosine", "tanh" or "constant", after the warm-up
    node.WARMUP_EPOCHS = 5.0  # epochs of linear warm-up, a part of EPOCHS
    node.WARMUP_LR = 0.0  # learning rate at the start of the warm-up
    node.MIN_LR = 0.0  # learning rate at the end of the schedule
    node.BF16 = False  # whether to run the network under torch.autocast with bfloat16

    node.LABEL_SMOOTHING = 0.1
    node.DROPOUT = 0.0  # before the classifier
    # Stochastic depth: probability of dropping the last residual branch. It decreases linearly
    # towards the first one.
    node.DROP_PATH_RATE = 0.0
    # Decay of the moving average of the weights, which is then evaluated and written to
    # model_final_ema.pth; 0 = no average.
    node.EMA_DECAY = 0.0
    node.EMA_WARMUP = False  # whether the decay starts smaller and grows to EMA_DECAY

    node.CROP_SCALE = (0.08, 1.0)  # random crop in training: smallest and largest share of the area
    node.FLIP = 0.5  # probability of a horizontal flip
    node.COLOR_JITTER = 0.0
    node.AUTO_AUGMENT = ""  # timm's notation, such as "rand-m15-mmax15-n2" for RandAugment
    node.RANDOM_ERASING = 0.0  # probability
    node.MIXUP = 0.0  # alpha of mixup's beta distribution; 0 = no mixup
    node.CUTMIX = 0.0  # alpha of CutMix's beta distribution; 0 = no CutMix
    node.INTERPOLATION = "bicubic"  # "bilinear" or "bicubic"
    # In evaluation: side of the centre crop divided by the shorter side of the image.
    node.TEST_CROP = 0.875

    node.EVAL_PERIOD = 1  # epochs between two evaluations
    # Iterations between two checkpoints; 0 = an epoch's.
    node.CHECKPOINT_PERIOD = 0


_NOT_BELOW_0: Rule = ("a number, not negative", lambda value: is_number(value) and value >= 0)
_RATE: Rule = ("a number from 0 to below 1", lambda value: 0 <= value < 1)
_PROBABILITY: Rule = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
_RULES: dict[str, Rule] = {
    "NUM_CLASSES": NOT_NEGATIVE,
    "IMAGE_SIZE": ("at least 32", lambda value: value >= 32),
    "EPOCHS": POSITIVE,
    "BATCH_SIZE": POSITIVE,
    "MOMENTUM": _NOT_BELOW_0,
    "LR_PER_256": _NOT_BELOW_0,
    "WEIGHT_DECAY": _NOT_BELOW_0,
    "SCHEDULER": one_of(("cosine", "tanh", "constant")),
    "WARMUP_EPOCHS": _NOT_BELOW_0,
    "WARMUP_LR": _NOT_BELOW_0,
    "MIN_LR": _NOT_BELOW_0,
    "LABEL_SMOOTHING": _RATE,
    "DROPOUT": _RATE,
    "DROP_PATH_RATE": _RATE,
    "EMA_DECAY": _RATE,
    "CROP_SCALE": (
        "two numbers with 0 < smallest <= largest <= 1",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
    ),
    "FLIP": _PROBABILITY,
    "COLOR_JITTER": _NOT_BELOW_0,
    "RANDOM_ERASING": _PROBABILITY,
    "MIXUP": _NOT_BELOW_0,
    "CUTMIX": _NOT_BELOW_0,
    "INTERPOLATION": one_of(("bilinear", "bicubic")),
    "TEST_CROP": ("a number above 0, up to 1", lambda value: 0 < value <= 1),
    "EVAL_PERIOD": POSITIVE,
    "CHECKPOINT_PERIOD": NOT_NEGATIVE,
}


def check_pretrain_config(cfg: CfgNode, num_processes: int = 1) -> None:
    """Raise InputError if a key has a value that pretraining cannot use.

    Args:
        cfg: with the node PRETRAIN.
        num_processes: number of processes, among which BATCH_SIZE is divided.
    """
    node = cfg.PRETRAIN
    for name, rule in _RULES.items():
        check(f"PRETRAIN.{name}", node[name], rule)
    if node.BATCH_SIZE % num_processes:
        raise InputError(
            f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: expected a multiple of the {num_processes} "
            "processes"
        )
    if (node.MIXUP or node.CUTMIX) and node.BATCH_SIZE // num_processes % 2:
        raise InputError(
            f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: mixup and CutMix pair the images of a "
            "process, so each process needs an even number of images, not "
            f"{node.BATCH_SIZE // num_processes}"
        )
    if cfg.SOLVER.ACCUMULATE != 1:
        raise InputError(
            f"SOLVER.ACCUMULATE={cfg.SOLVER.ACCUMULATE}: pretraining does not divide a batch into "
            "parts; set it to 1"
        )
    if cfg.SEED < 0:
        raise InputError(
            f"SEED={cfg.SEED}: expected 0 or more, because the order of the data depends on it"
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT:
        raise InputError(
            f"MODEL.BACKBONE.FREEZE_AT={cfg.MODEL.BACKBONE.FREEZE_AT}: pretraining starts from "
            "random weights, so nothing can be frozen; set it to 0"
        )
    if cfg.INPUT.FORMAT != "RGB":
        raise InputError(f"INPUT.FORMAT={cfg.INPUT.FORMAT!r}: pretraining reads images as 'RGB'")
    if cfg.MODEL.DEVICE == "cpu" and cfg.MODEL.LAMBDA_RESNET.NORM == "SyncBN":
        raise InputError(
            "MODEL.LAMBDA_RESNET.NORM='SyncBN': PyTorch's SyncBatchNorm needs a GPU; set it to "
            "'BN', or to 'nnSyncBN' with several processes"
        )
