"""Files of a pretraining: weights that detection loads as they are, and the state to go on from.

Both are the same kind of file: under ``"model"`` the weights with the bare backbone's names (``stem
...``, ``res4.5.lambda_layer. ...``, ``linear.weight``), which ``MODEL.WEIGHTS`` takes. Nothing but
tensors and plain containers: ``torch.load(weights_only=True)`` reads them.
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
    """What a file holds.

    Args:
        weights: the backbone's and the classifier's, averaged where an average is kept.
        cfg: of the run.
        classes: names of the classes, in the classifier's order.
        iteration: number of finished iterations.
        averaged: whether ``weights`` are the average.
        training: the state to go on from; None for a file of weights alone.
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
        "matching_heuristics": True,  # detectron2 then finds the backbone inside a detector
        "__author__": "lambda_det",
        "metadata": metadata,
    }
    return content if training is None else content | {"training": dict(training)}


def load_checkpoint(path: str) -> dict[str, object]:
    """Read a file that holds a training's state.

    Raises:
        InputError: it is not such a file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["training"]["iteration"], content["metadata"]["classes"]
    except Exception as error:  # unpickling raises whatever the bytes happen to mean
        raise InputError(
            f"--resume: {path} is not a checkpoint of a pretraining ({type(error).__name__}); "
            "remove it to start anew"
        ) from error
    return content
