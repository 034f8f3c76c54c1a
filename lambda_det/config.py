"""All config keys that lambda_det adds to detectron2's, with their defaults and meanings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

REMOVED_KEYS = ("TEST.SANITY_IMAGES", "PRETRAIN.LOG_PERIOD")
"""Keys that a config of an earlier version may contain. ``train_net --dry-run`` has taken the place
of the first."""

EXIF_MODES = ("auto", "apply", "ignore")
"""The values of ``INPUT.EXIF``."""

PILLOW_LIMIT = 178_956_970
"""Pixels of an image from which on Pillow refuses it, unless it is told otherwise."""

# A key whose default is None accepts a value of any type: detectron2's CfgNode allows it.


def add_lambda_config(cfg: CfgNode) -> None:
    """Add lambda_det's keys with their defaults to ``cfg``; keys that exist are not changed."""
    _add(cfg.MODEL, "LAMBDA_RESNET", _lambda_resnet())
    _add(cfg.INPUT, "LSJ", _large_scale_jitter())
    # The frame of an image with an EXIF orientation: "apply" turns the image, "ignore" takes it as
    # it is stored, "auto" turns it unless its json has the size of the stored frame.
    _add(cfg.INPUT, "EXIF", "auto")
    # Value of white in 16-bit grey images, such as 4095 for a sensor of 12 bits; 0 = 65535.
    _add(cfg.INPUT, "WHITE_LEVEL", 0)
    # Largest number of pixels of an image. The default is Pillow's limit, which protects from files
    # that are made to fill the memory.
    _add(cfg.INPUT, "MAX_PIXELS", PILLOW_LIMIT)
    # Whether image files that are missing, cannot be read or have another size than their json says
    # are left out and counted; otherwise they end the run.
    _add(cfg.DATALOADER, "SKIP_UNREADABLE", False)
    # Type to which SOLVER.AMP casts: "float16" (detectron2's, needs a GPU) or "bfloat16" (on a CPU,
    # too). The rounding error of bfloat16 in a new lambda layer's output is nearly as large as its
    # content part.
    _add(cfg.SOLVER.AMP, "PRECISION", "float16")
    # Largest number of iterations with a NaN or infinite loss that a run skips before it stops with
    # an error; 0 = it stops at the first one.
    _add(cfg.SOLVER, "MAX_SKIPPED_STEPS", 0)
    # Gradient accumulation: a process divides its images of an iteration into this number of parts
    # and runs them one after the other, which needs less memory. SOLVER.IMS_PER_BATCH remains the
    # number of images per update.
    _add(cfg.SOLVER, "ACCUMULATE", 1)
    # Decay of a moving average of the weights, such as 0.9998. The average is then what is
    # evaluated; 0 = no average.
    _add(cfg.SOLVER, "EMA_DECAY", 0.0)
    # Metric by which the best weights are chosen and kept in model_best.pth: "segm/AP",
    # "bbox/AP50", or "DATASET/segm/AP" for another dataset than the first of DATASETS.TEST.
    # "" = model_best.pth is not written.
    _add(cfg.TEST, "BEST_METRIC", "")
    # Weights & Biases: ENABLED sends the metrics there. NAME "" = the last folder of OUTPUT_DIR.
    _add(cfg, "WANDB", CfgNode({"ENABLED": False, "PROJECT": "lambda_det", "NAME": ""}))
    # Folder of a dataset as an annotation tool exports it, or a COCO json. "" = the environment
    # variable LAMBDA_DET_COCO_FOLDER, or, if that is not set, the datasets that detectron2
    # registers.
    _add(cfg.DATASETS, "COCO_FOLDER", "")
    # True refuses a dataset in which anything would be mended or left out, see docs/data.md.
    _add(cfg.DATASETS, "STRICT", False)
    # If that folder has no validation split, this share of the images of its training split is
    # coco_2017_val, and coco_2017_train is the rest. They are the same images in every run.
    _add(cfg.DATASETS, "VAL_SHARE", 0.0)
    # Number of the newest checkpoints model_0001234.pth that a run keeps in OUTPUT_DIR, in addition
    # to model_final.pth; 0 = all. Keep at least 2, so that a run can resume from the older one if
    # the newest is damaged.
    _add(cfg.SOLVER, "CHECKPOINT_KEEP", 0)
    for name in REMOVED_KEYS:  # yacs skips these with a warning
        with contextlib.suppress(AssertionError):  # it is registered already
            cfg.register_deprecated_key(name)


def get_cfg() -> CfgNode:
    """Return detectron2's default config with the keys of lambda_det."""
    cfg = get_detectron2_cfg()
    add_lambda_config(cfg)
    return cfg


def flat(node: Mapping, prefix: str = "") -> dict[str, object]:
    """Return a config, or another nested mapping, as ``{"SOLVER.MAX_ITER": 100, …}``."""
    keys: dict[str, object] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return keys


def _add(node: CfgNode, key: str, value: object) -> None:
    if key not in node:
        node[key] = value


def _lambda_resnet() -> CfgNode:
    node = CfgNode()
    # "resnet", "se" (SE-ResNet), "lambda" (lambda layers at some blocks of res4 and in all of res5)
    # or "lambda_full" (in all blocks of res4 and res5).
    node.VARIANT = "lambda"
    # 50, 101, 152, 200, 270, 350 or 420; 26 only for timm's small networks.
    node.DEPTH = 101
    # "rs" (ResNet-RS: 3x3 convolutions), "v1" (7x7 convolution and max-pooling, for the weights of
    # ordinary ResNets) or "tiered" (for the weights of timm's lambda networks).
    node.STEM = "rs"
    node.NORM = "BN"  # a name that detectron2's get_norm accepts
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Blocks with a lambda layer: None = those of the variant, else a list of numbers from 1, or
    # ["all"]; [] = none.
    node.LAMBDA_BLOCKS = CfgNode({"RES2": None, "RES3": None, "RES4": None, "RES5": None})
    # Stages with squeeze-and-excitation: None = those of the variant, else a list; [] = none.
    node.SE_STAGES = None
    node.SE_RATIO = 0.25  # channels of the squeeze divided by the block's output channels
    # Whether a strided block strides in its first 1x1 convolution, as the MSRA ResNets do.
    node.STRIDE_IN_1X1 = False
    node.ACTIVATION = "relu"  # "silu" for the weights of timm's lambda_resnet50ts
    # Side of the average pooling in a strided lambda block; 2 for the weights of timm's
    # lambda_resnet26t and lambda_resnet26rpt_256.
    node.LAMBDA_POOL = 3
    # Whether the last norm of every bottleneck starts at 0, as in the paper, so that the block
    # starts as its shortcut. In a short training these norms stay near 0 and the blocks have no
    # effect; set it to False (start at 1) unless the schedule has tens of thousands of iterations.
    node.ZERO_INIT_RESIDUAL = True
    # Stages, such as ["res4", "res5"], whose residual branches are held at 0. This is a control: it
    # measures what the detector learns without them.
    node.IDLE_STAGES = []
    # Whether the padding of a batch is treated as outside the image, in every variant. Without it,
    # the features near the border of an image depend on the size of the batch, and with lambda
    # layers or SE all features do. Norms that compute statistics (BN in training, GN) include the
    # padding in any case.
    node.MASK_PADDING = False
    # Stages, such as ["res2", "res3", "res4", "res5"], whose blocks keep only their input in
    # training and are computed again in the backward pass: less memory, more time, same results.
    node.ACTIVATION_CHECKPOINTING = []

    # How much of the backbone MODEL.WEIGHTS must contain. PARTIAL_INIT: lambda layers, their norm
    # and SE may stay random if the file does not contain them. PARTIAL_INIT_AS_IDENTITY: the last
    # norm of a block whose middle layer stays random is set to 0, so that the block starts as its
    # shortcut. MIN_COVERAGE: required share, 0 to 1, of the backbone's other parameters.
    node.PARTIAL_INIT = False
    node.PARTIAL_INIT_AS_IDENTITY = False
    node.MIN_COVERAGE = 1.0
    # Number of training images on which the statistics of norms are measured that MODEL.WEIGHTS has
    # without them, as detectron2's COCO detectors do: they are merged into weight and bias. The
    # function in evaluation stays the same, and BN trains it, too. 0 = none, with a warning.
    node.MEASURE_NORMS = 0

    # The layer at the lambda blocks. The defaults are those of the lambda layer.
    layer = node.LAYER = CfgNode()
    # "lambda"; what the paper compares it with: "global_attention", "axial_attention",
    # "local_attention", "linear_attention", "double_attention", "attention_augmented"; "depthwise"
    # (a SCOPE x SCOPE convolution of each channel); or the name of a layer of your own, which a
    # module that --import names has registered in lambda_det.backbone.LAYER_REGISTRY. The other
    # kinds have QUERY_DEPTH, NUM_HEADS, SCOPE and MAX_SIZE as far as they mean something for them;
    # a key that a kind does not have is refused if it is set.
    layer.KIND = "lambda"
    # Whether another kind has defaults of its own, those of its paper, for QUERY_DEPTH, NUM_HEADS
    # and SCOPE where these are 16, 4 and 23, the lambda layer's. With False they count as they are.
    layer.OWN_DEFAULTS = True
    layer.QUERY_DEPTH = 16
    layer.NUM_HEADS = 4
    layer.INTRA_DEPTH = 1
    layer.SCOPE = 23  # side of the position window in positions, an odd number; 0 = global
    layer.MAX_SIZE = None  # [height, width] of the largest image in pixels; for SCOPE 0 only
    layer.NORM = None  # norm of queries and values: None = the backbone's NORM, "" = no norm
    layer.KEY_NORMALIZER = "softmax"  # "softmax", "l2" or None
    layer.QUERY_NORMALIZER = None  # "softmax" or None
    layer.CONTENT = True  # whether the layer has a content lambda
    layer.POSITION = True  # whether the layer has a position lambda
    layer.POSITION_BIAS = False  # True for the weights of d-li14 and timm's 26t and 50ts
    layer.SHARED_EMBEDDINGS = False  # one embedding for all layers of a stage with one resolution
    # Back end of the position lambda: "auto", "reference", "conv", "banded", "native" (CPU,
    # compiled on first use) or "triton" (GPU).
    layer.BACKEND = "auto"
    # Whether "auto" may measure, at the first call of a kind, which back end is the fastest on this
    # machine. False, or the environment variable LAMBDA_DET_AUTOTUNE=0: a rule chooses, and the
    # last bits of a result do not depend on how fast a back end was.
    layer.AUTOTUNE = True
    return node


def _large_scale_jitter() -> CfgNode:
    node = CfgNode()
    # Large-scale jitter in training, in place of INPUT.MIN_SIZE_TRAIN and INPUT.CROP: an image is
    # resized to fit into SIZE (height, width in pixels) times a random factor from SCALE, then
    # cropped or padded to SIZE.
    node.ENABLED = False
    node.SCALE = (0.1, 2.0)
    node.SIZE = (1024, 1024)
    return node
