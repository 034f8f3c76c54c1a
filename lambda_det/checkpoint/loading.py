"""Loading of a model's weights, with one clear line when that is not possible."""

from __future__ import annotations

import os

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from lambda_det.backbone import LambdaResNet
from lambda_det.errors import InputError


def load_weights(checkpointer: DetectionCheckpointer, path: str) -> None:
    """Load the model's weights, and nothing else, from the file ``MODEL.WEIGHTS``.

    Raises:
        InputError: there is no such file, or it is not a checkpoint.
    """
    if "://" not in path and not os.path.isfile(path):
        raise InputError(f"MODEL.WEIGHTS={path!r}: no such file")
    try:
        checkpointer.load(path, checkpointables=[])
    except Exception as error:
        # Unpickling raises whatever the bytes happen to mean; the cause stays attached.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"MODEL.WEIGHTS={path!r}: cannot be read as a checkpoint (.pth of PyTorch, .pkl of the "
            f"detectron2 model zoo): {reason}"
        ) from error


def check_frozen_weights(model: nn.Module, weights: str) -> None:
    """Refuse to train on random features: what is frozen must have been loaded.

    Args:
        model: any detector; only :class:`LambdaResNet` backbones in it are looked at.
        weights: ``MODEL.WEIGHTS``, for the message.

    Raises:
        InputError: a frozen tensor was not loaded since the backbone was built.
    """
    for module in model.modules():
        if isinstance(module, LambdaResNet) and (names := module.frozen_without_weights()):
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT freezes {len(names)} tensors that "
                f"MODEL.WEIGHTS={weights!r} did not fill (first: {names[0]}); random features "
                "cannot be trained upon: give weights that hold them, or set "
                "MODEL.BACKBONE.FREEZE_AT 0"
            )
