# The settings that lambda_det lazyconfig_train_net reads, under detectron2's names; "lambda_det"
# marks those that detectron2 does not have.
import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

train = dict(
    output_dir="./output",
    init_checkpoint="",  # as MODEL.WEIGHTS; torchvision:// and timm:// are allowed
    max_iter=90000,
    # lambda_det: precision; "bfloat16" works on a CPU
    amp=dict(enabled=False, precision="float16"),
    checkpointer=dict(period=5000, max_to_keep=0),  # 0 keeps all checkpoints
    eval_period=0,  # evaluate at the end only
    device="cuda",
    seed=-1,  # of all random numbers; a negative seed differs in every run
    # lambda_det: SOLVER.ACCUMULATE, EMA_DECAY, MAX_SKIPPED_STEPS, TEST.BEST_METRIC
    accumulate=1,
    ema_decay=0.0,
    max_skipped_steps=0,
    best_metric="",
    wandb=dict(enabled=False, project="lambda_det", name=""),  # lambda_det: WANDB.*
    coco_folder="",  # lambda_det: DATASETS.COCO_FOLDER
    val_share=0.0,  # lambda_det: DATASETS.VAL_SHARE
    # lambda_det: the parts that init_checkpoint must fill, as MODEL.LAMBDA_RESNET.PARTIAL_INIT
    partial_init=dict(enabled=False, as_identity=False, min_coverage=1.0),
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,  # detectron2's default depends on its version
    ),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
