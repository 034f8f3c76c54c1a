"""Loading of a model's weights, with one clear line when that is not possible."""

from __future__ import annotations

import os
from collections.abc import Sequence

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from lambda_det.backbone import LambdaResNet
from lambda_det.errors import InputError


class _ReportingCheckpointer(DetectionCheckpointer):
    """Remembers which tensors of the model a checkpoint did not fill."""

    unfilled: Sequence[str] = ()

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        names = [*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)]
        self.unfilled = [name for name in names if not name.endswith("num_batches_tracked")]
        return incompatible


def load_weights(model: nn.Module, path: str, *, complete: bool = False) -> None:
    """Load the model's weights, and nothing else, from the file ``MODEL.WEIGHTS``.

    Args:
        model: the detector, bare or in DistributedDataParallel.
        path: a file, or what detectron2's PathManager reads.
        complete: whether the file must fill the whole model, as evaluation needs.

    Raises:
        InputError: there is no such file, it is not a checkpoint, it is another model's, or
            nothing here reads an address of its kind.
    """
    if "://" not in path and not os.path.isfile(path):
        raise InputError(f"MODEL.WEIGHTS={path!r}: no such file")
    try:
        _check_kind_of_address(path)
        checkpointer = _ReportingCheckpointer(model)
        checkpointer.load(path, checkpointables=[])
    except InputError:
        raise
    except Exception as error:
        # Unpickling raises whatever the bytes happen to mean; the cause stays attached.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"MODEL.WEIGHTS={path!r}: cannot be read as a checkpoint (.pth of PyTorch, .pkl of the "
            f"detectron2 model zoo): {reason}"
        ) from error
    unfilled, total = checkpointer.unfilled, len(model.state_dict())
    if complete and unfilled:
        raise InputError(
            f"MODEL.WEIGHTS={path!r}: {len(unfilled)} of the model's {total} tensors are not in it "
            f"or have another shape (first: {unfilled[0]}); evaluation needs all of them"
        )
    if not _any_filled(model, unfilled):
        raise InputError(f"MODEL.WEIGHTS={path!r}: not one of its tensors fits the model")


def _check_kind_of_address(path: str) -> None:
    """Raise InputError for a ``scheme://`` that no handler of detectron2's PathManager reads."""
    scheme = path.partition("://")[0]
    if scheme in (path, "http", "https"):
        return
    # An address that is no handler's comes back as if it were the path of a file.
    if not os.path.isfile(PathManager.get_local_path(path)):
        raise InputError(
            f"MODEL.WEIGHTS={path!r}: addresses of the kind '{scheme}://' are not supported yet; "
            "give a file, http(s):// or detectron2://, or '' to start from random weights"
        )


def _any_filled(model: nn.Module, unfilled: Sequence[str]) -> bool:
    missing = {name.removeprefix("module.") for name in unfilled}
    return any(name.removeprefix("module.") not in missing for name, _ in model.named_parameters())


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
