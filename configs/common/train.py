# What tools/lazyconfig_train_net.py reads, in detectron2's words; "ours" marks those it has not.
import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

train = dict(
    output_dir="./output",
    init_checkpoint="",  # of a model, as MODEL.WEIGHTS; torchvision:// and timm:// too
    max_iter=90000,
    amp=dict(enabled=False, precision="float16"),  # ours: precision, "bfloat16" works on a CPU
    checkpointer=dict(period=5000, max_to_keep=0),  # 0 keeps all
    eval_period=0,  # at the end only
    device="cuda",
    seed=-1,  # of everything that is random; below 0: another one in every run
    # ours: SOLVER.ACCUMULATE, EMA_DECAY and MAX_SKIPPED_STEPS, TEST.BEST_METRIC and SANITY_IMAGES
    accumulate=1,
    ema_decay=0.0,
    max_skipped_steps=0,
    best_metric="",
    sanity_images=0,
    wandb=dict(enabled=False, project="lambda_det", name=""),  # ours: WANDB.*
    coco_folder="",  # ours: DATASETS.COCO_FOLDER
    # ours: what init_checkpoint must fill, as MODEL.LAMBDA_RESNET.PARTIAL_INIT and its kin
    partial_init=dict(enabled=False, as_identity=False, min_coverage=1.0),
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,  # detectron2's own default differs by its version
    ),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
