"""From a config of pretraining and a folder of images to the parts and options of the engine."""

from __future__ import annotations

import functools
import logging
import os
from argparse import Namespace

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from lambda_det.backbone import build_classifier, lambda_resnet_arguments
from lambda_det.checkpoint import metadata_of_training
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.configs import find_config, load_config
from lambda_det.engine import Parts, RunOptions, run
from lambda_det.engine.averaging import FINAL_AVERAGE
from lambda_det.engine.checkpointing import FINAL, POINTER
from lambda_det.engine.checks import check_device
from lambda_det.engine.parts import PRECISIONS, Results
from lambda_det.engine.setup import import_words, log_model, start_run
from lambda_det.errors import InputError
from lambda_det.pretrain.classifier import Classifier, evaluate
from lambda_det.pretrain.earlier_checkpoint import FILE, convert_checkpoint
from lambda_det.pretrain.image_folder import (
    ImageFolder,
    TrainingImages,
    build_val_loader,
    read_image_folder,
)
from lambda_det.pretrain.keys import check_pretrain_config, get_pretrain_cfg
from lambda_det.pretrain.timm_parts import build_mixing, build_optimizer, build_scheduler
from lambda_det.randomness import seed_everything
from lambda_det.records import tool_words
from lambda_det.version import __version__

logger = logging.getLogger(__name__)

_KEPT = 2  # checkpoints: the older one is there for the case that the newest is damaged

_KEY_NAMES = {
    "SOLVER.MAX_ITER": "PRETRAIN.EPOCHS",
    "SOLVER.CHECKPOINT_PERIOD": "PRETRAIN.CHECKPOINT_PERIOD",
    "SOLVER.EMA_DECAY": "PRETRAIN.EMA_DECAY",
    "SOLVER.IMS_PER_BATCH": "PRETRAIN.BATCH_SIZE",
    "TEST.EVAL_PERIOD": "PRETRAIN.EVAL_PERIOD",
}


def pretrain(args: Namespace) -> Results:
    """Pretrain a backbone; every process calls this function.

    Args:
        args: with the attributes ``data`` (an ImageFolder), ``config_file``, ``opts`` (alternating
            keys and values) and ``resume``.

    Returns:
        The numbers of the last evaluation: ``val_loss``, ``val_top1`` and ``val_top5`` (percent),
        of the averaged weights if PRETRAIN.EMA_DECAY is set.

    Raises:
        InputError: a file, a key or a value is wrong. The message names it.
    """
    setup_logger(distributed_rank=comm.get_rank())
    args = Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    cfg = load_config(args.config_file, args.opts, defaults=get_pretrain_cfg())
    check_device(cfg.MODEL.DEVICE)
    check_pretrain_config(cfg, comm.get_world_size())
    data = read_image_folder(args.data, cfg.PRETRAIN.NUM_CLASSES)
    folder = cfg.OUTPUT_DIR
    earlier = any(os.path.exists(os.path.join(folder, name)) for name in (POINTER, FILE))
    if earlier and not args.resume:
        raise InputError(
            f"OUTPUT_DIR={folder!r}: contains the checkpoint of an earlier run; add --resume to "
            "continue it, or choose another folder"
        )
    parts, options = pretrain_parts(cfg, data)
    cfg.freeze()
    start_run(cfg, args, folder)
    log_model(parts.model)
    if args.resume:
        if comm.is_main_process():
            convert_checkpoint(folder, cfg.SEED)
        comm.synchronize()
    command = [*tool_words("pretrain"), *import_words(getattr(args, "modules", ())), "--data"]
    command += [args.data, "--config-file"]
    parts.resume_command = [*command, os.path.join(folder, "config.yaml"), "--resume"]
    results = run(parts, options, resume=args.resume)
    name = FINAL_AVERAGE if options.ema_decay else FINAL
    logger.info("for MODEL.WEIGHTS of a detector: %s", os.path.join(folder, name))
    return results


def pretrain_parts(cfg: CfgNode, data: ImageFolder) -> tuple[Parts, RunOptions]:
    """Build the parts and options of a pretraining.

    Args:
        cfg: config that :func:`check_pretrain_config` accepted.
        data: images and classes.

    Raises:
        InputError: a key has a wrong value, or the data has fewer images than PRETRAIN.BATCH_SIZE.
    """
    node = cfg.PRETRAIN
    per_epoch = len(data.train) // node.BATCH_SIZE
    if not per_epoch:
        raise InputError(
            f"PRETRAIN.BATCH_SIZE={node.BATCH_SIZE}: the training data has {len(data.train)} "
            "images; expected at most that many"
        )
    options = RunOptions(
        output_dir=cfg.OUTPUT_DIR,
        max_iter=per_epoch * node.EPOCHS,
        eval_period=per_epoch * node.EVAL_PERIOD,
        checkpoint_period=node.CHECKPOINT_PERIOD or per_epoch,
        keep=_KEPT,
        precision="bfloat16" if node.BF16 else "float32",
        ema_decay=node.EMA_DECAY,
        ema_warmup=node.EMA_WARMUP,
        max_skipped=cfg.SOLVER.MAX_SKIPPED_STEPS,
        best_metric="val_top1",
        wandb=cfg.WANDB.PROJECT if cfg.WANDB.ENABLED else "",
        wandb_name=cfg.WANDB.NAME,
        key_names=_KEY_NAMES,
    )
    device = torch.device(cfg.MODEL.DEVICE)
    seed_everything(cfg.SEED)  # every process starts with the same weights
    network = build_classifier(
        cfg, len(data.classes), drop_path_rate=node.DROP_PATH_RATE, dropout=node.DROPOUT
    )
    model = Classifier(network, build_mixing(cfg, len(data.classes), device)).to(device)
    optimizer = build_optimizer(cfg, network)
    val_loader = build_val_loader(cfg, data.val, device, comm.get_rank(), comm.get_world_size())
    parts = Parts(
        model=model,
        optimizer=optimizer,
        train_loader=TrainingImages(cfg, data.train, options.max_iter, device),
        scheduler=build_scheduler(cfg, optimizer, per_epoch),
        evaluate=functools.partial(evaluate, val_loader, precision=PRECISIONS[options.precision]),
        config=cfg.dump(),
        metadata=_metadata(cfg, data.classes)
        | metadata_of_training(network, lambda_resnet_arguments(cfg), ImageFormat.from_config(cfg)),
    )
    return parts, options


def _metadata(cfg: CfgNode, classes: list[str]) -> dict[str, object]:
    node = cfg.MODEL.LAMBDA_RESNET
    return {
        # With this entry DetectionCheckpointer matches the names to those inside a detector.
        "matching_heuristics": True,
        "__author__": "lambda_det",
        "metadata": {
            "made_by": f"lambda_det {__version__}, pretraining",
            "depth": node.DEPTH,
            "variant": node.VARIANT,
            "stem": node.STEM,
            "image_format": "RGB",
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
            "image_size": cfg.PRETRAIN.IMAGE_SIZE,
            "classes": list(classes),
        },
    }
