"""The two files of a pretraining: ``checkpoint.pth`` to resume from and ``model_final.pth``.

Both contain the weights under ``"model"`` with the bare backbone's names, so MODEL.WEIGHTS accepts
either of them. They contain only tensors and plain containers, so
``torch.load(weights_only=True)`` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from torch import Tensor

from lambda_det.errors import InputError
from lambda_det.version import __version__

CHECKPOINT = "checkpoint.pth"
FINAL_WEIGHTS = "model_final.pth"


def checkpoint_content(
    weights: Mapping[str, Tensor],
    cfg: CfgNode,
    *,
    classes: list[str],
    iteration: int,
    averaged: bool,
    training: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the content of a file, to be written with ``torch.save``.

    Args:
        weights: state dict of the backbone and the classifier; the averaged one if
            PRETRAIN.EMA_DECAY is set.
        cfg: config of the run.
        classes: names of the classes, in the classifier's order.
        iteration: number of finished iterations.
        averaged: whether ``weights`` are the average.
        training: state from which a run can resume; None = the file contains weights only.
    """
    node = cfg.MODEL.LAMBDA_RESNET
    metadata = {
        "made_by": f"lambda_det {__version__}, pretraining",
        "depth": node.DEPTH,
        "variant": node.VARIANT,
        "stem": node.STEM,
        "image_format": "RGB",
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "image_size": cfg.PRETRAIN.IMAGE_SIZE,
        "classes": list(classes),
        "iteration": iteration,
        "averaged": averaged,
        "config": cfg.dump(),
    }
    content = {
        "model": dict(weights),
        # With this entry DetectionCheckpointer matches the names to those inside a detector.
        "matching_heuristics": True,
        "__author__": "lambda_det",
        "metadata": metadata,
    }
    return content if training is None else content | {"training": dict(training)}


def load_checkpoint(path: str) -> dict[str, object]:
    """Read a file from which a pretraining can resume.

    Raises:
        InputError: the file cannot be read or does not contain the state of a pretraining.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["training"]["iteration"], content["metadata"]["classes"]
    except Exception as error:  # damaged files raise exceptions of many types
        raise InputError(
            f"--resume: {path} is not a checkpoint of a pretraining ({type(error).__name__}); "
            "remove it to start from iteration 0"
        ) from error
    return content
