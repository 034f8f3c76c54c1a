"""Every config key that lambda_det adds: its default and its meaning, in one place."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

# detectron2's CfgNode takes None for a value that a list or a string may replace.


def add_lambda_config(cfg: CfgNode) -> None:
    """Add lambda_det's keys to ``cfg``; change none that is there. Safe to call again."""
    _add(cfg.MODEL, "LAMBDA_RESNET", _lambda_resnet())
    _add(cfg.INPUT, "LSJ", _large_scale_jitter())
    # Of SOLVER.AMP: "float16" (as detectron2, on a GPU) or "bfloat16" (on a CPU too). bfloat16
    # rounds a new lambda layer's output by nearly as much as its content part measures.
    _add(cfg.SOLVER.AMP, "PRECISION", "float16")
    # Iterations of a run that may have a NaN or infinite loss: left out and counted. 0: stop at it.
    _add(cfg.SOLVER, "MAX_SKIPPED_STEPS", 0)
    # Parts that a process takes its images of an update in, one after the other, for less memory;
    # SOLVER.IMS_PER_BATCH stays the images of one update. 1: all at once.
    _add(cfg.SOLVER, "ACCUMULATE", 1)
    # Of a moving average of the weights (0.9998), which is evaluated in their place; 0 = none.
    _add(cfg.SOLVER, "EMA_DECAY", 0.0)
    # "segm/AP", "bbox/AP50", "DATASET/segm/AP": the weights with the best such evaluation stay in
    # model_best.pth. Without a dataset it is the first one's. "": none.
    _add(cfg.TEST, "BEST_METRIC", "")
    # Before iteration 0: a checkpoint, a batch and the evaluation of so many images of every test
    # set are tried, so that what would fail after hours fails now. 0: not.
    _add(cfg.TEST, "SANITY_IMAGES", 0)
    # Metrics to Weights & Biases too. NAME "": the last part of OUTPUT_DIR.
    _add(cfg, "WANDB", CfgNode({"ENABLED": False, "PROJECT": "lambda_det", "NAME": ""}))
    # Folder in COCO layout to read in place of detectron2's own "coco" folder. Empty: the
    # environment variable LAMBDA_DET_COCO_FOLDER, and without it detectron2's usual place.
    _add(cfg.DATASETS, "COCO_FOLDER", "")
    # How many of a run's model_0001234.pth stay in OUTPUT_DIR, the newest; 0 = all of them. More
    # than one, so that a damaged one has another before it. model_final.pth is not counted.
    _add(cfg.SOLVER, "CHECKPOINT_KEEP", 0)


def get_cfg() -> CfgNode:
    """detectron2's default config with lambda_det's keys, ready to merge a YAML file."""
    cfg = get_detectron2_cfg()
    add_lambda_config(cfg)
    return cfg


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """A config as ``{"SOLVER.MAX_ITER": 100, …}``."""
    keys: dict[str, object] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys |= flat(value, f"{name}.") if isinstance(value, CfgNode) else {name: value}
    return keys


def _add(node: CfgNode, key: str, value: object) -> None:
    if key not in node:
        node[key] = value


def _lambda_resnet() -> CfgNode:
    node = CfgNode()
    node.VARIANT = "lambda"  # "resnet", "se", "lambda", "lambda_full"
    node.DEPTH = 101  # 50, 101, 152, 200, 270, 350, 420; 26 for small networks of timm
    # "rs" (ResNet-RS), "v1" (7x7 and max-pooling, takes ordinary weights), "tiered" (timm's)
    node.STEM = "rs"
    node.NORM = "BN"  # anything that detectron2's get_norm knows
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Blocks with a lambda layer: None = the variant's, else 1-based numbers, ["all"], [] = none.
    node.LAMBDA_BLOCKS = CfgNode({"RES2": None, "RES3": None, "RES4": None, "RES5": None})
    node.SE_STAGES = None  # None = the variant's, else a list of stages, [] = none
    node.SE_RATIO = 0.25  # squeezed channels / block output channels
    node.STRIDE_IN_1X1 = False  # True for weights of the MSRA ResNets
    node.ACTIVATION = "relu"  # "silu" for weights of timm
    node.LAMBDA_POOL = 3  # side of the pooling in a strided lambda block; 2 for weights of timm
    # The last norm of every bottleneck starts at 0 (the paper's, for schedules of tens of thousands
    # of iterations), or at 1 (False): a short training never opens what starts at 0.
    node.ZERO_INIT_RESIDUAL = True
    # Stages, such as ["res4", "res5"], whose residual branches are held at 0 throughout: a control,
    # of what is learned without them.
    node.IDLE_STAGES = []
    # Treat a batch's padding as outside of the image, in every variant: otherwise the features near
    # the image's edge depend on the size of the batch, and with lambda layers or SE all of them.
    # Norms that measure (BN in training, GN) still count the padding.
    node.MASK_PADDING = False
    # Stages, such as ["res2", "res3", "res4", "res5"], whose blocks keep only their input in
    # training and are computed again in the backward pass: less memory, more time, same numbers.
    node.ACTIVATION_CHECKPOINTING = []

    # What MODEL.WEIGHTS must fill. Lambda layers, their norm and SE may stay random where no file
    # holds them (True), and blocks with a random middle start as their shortcut (last norm at 0).
    node.PARTIAL_INIT = False
    node.PARTIAL_INIT_AS_IDENTITY = False
    node.MIN_COVERAGE = 1.0  # share of the backbone's other parameters; less is an error

    layer = node.LAYER = CfgNode()
    layer.QUERY_DEPTH = 16
    layer.NUM_HEADS = 4
    layer.INTRA_DEPTH = 1
    layer.SCOPE = 23  # odd side of the position window; 0 = global
    layer.MAX_SIZE = None  # [H, W] of the largest image, needed by the global scope only
    layer.NORM = None  # of queries and values: None = the backbone's, "" = none
    layer.KEY_NORMALIZER = "softmax"  # "softmax", "l2" or None
    layer.QUERY_NORMALIZER = None  # "softmax" or None
    layer.CONTENT = True  # use the content lambda
    layer.POSITION = True  # use the position lambda
    layer.POSITION_BIAS = False  # for weights of other implementations
    layer.SHARED_EMBEDDINGS = False  # one table for a stage's layers of one resolution
    layer.BACKEND = "auto"  # "auto", "conv", "triton" (CUDA), "reference"
    return node


def _large_scale_jitter() -> CfgNode:
    node = CfgNode()
    node.ENABLED = False  # in training, in place of INPUT.MIN_SIZE_TRAIN and INPUT.CROP
    node.SCALE = (0.1, 2.0)  # of the size that fits into SIZE
    node.SIZE = (1024, 1024)  # height, width that images are cropped or padded to
    return node
