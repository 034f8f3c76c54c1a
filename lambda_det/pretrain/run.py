"""The function behind the command ``pretrain``."""

from __future__ import annotations

import os
from argparse import Namespace

import torch
from timm.utils import init_distributed_device

from lambda_det.configs import find_config, load_config
from lambda_det.engine.setup import check_device, setup_console, start_run
from lambda_det.errors import InputError
from lambda_det.pretrain.checkpoint_file import CHECKPOINT
from lambda_det.pretrain.image_folder import read_image_folder
from lambda_det.pretrain.keys import check_pretrain_config, get_pretrain_cfg
from lambda_det.pretrain.pretrainer import Pretrainer


def pretrain(args: Namespace) -> dict[str, float]:
    """Pretrain a backbone in one process, or as one of the processes that torchrun started.

    Args:
        args: with the attributes ``data`` (an ImageFolder), ``config_file``, ``opts`` (alternating
            keys and values) and ``resume``.

    Returns:
        The numbers of the last evaluation: ``val_loss``, ``val_top1`` and ``val_top5`` (percent),
        and, if PRETRAIN.EMA_DECAY is set, the same with ``ema_`` for the averaged weights.

    Raises:
        InputError: a file, a key or a value is wrong. The message names it.
    """
    args = Namespace(**{**vars(args), "config_file": find_config(args.config_file)})
    cfg = load_config(args.config_file, args.opts, defaults=get_pretrain_cfg())
    check_device(cfg)
    check_pretrain_config(cfg, int(os.environ.get("WORLD_SIZE", 1)))
    data = read_image_folder(args.data, cfg.PRETRAIN.NUM_CLASSES)
    checkpoint = os.path.join(cfg.OUTPUT_DIR, CHECKPOINT)
    if os.path.exists(checkpoint) and not args.resume:
        raise InputError(
            f"OUTPUT_DIR={cfg.OUTPUT_DIR!r}: contains the checkpoint of an earlier run; add "
            "--resume to continue it, or choose another folder"
        )
    process = Namespace(device=cfg.MODEL.DEVICE)
    device = init_distributed_device(process)  # reads the variables of torchrun or SLURM
    try:
        setup_console()
        start_run(cfg, args)
        trainer = Pretrainer(cfg, data, device)
        if args.resume:
            trainer.resume()
        return trainer.train()
    finally:
        if process.distributed:
            torch.distributed.destroy_process_group()
