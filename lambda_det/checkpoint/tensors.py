"""The tensors in a checkpoint, wherever in its containers they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lambda_det.errors import InputError

EMA_CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
CONTAINERS = (*EMA_CONTAINERS, "model", "state_dict", "model_state", "model_state_dict", "module")
"""Keys under which training scripts save weights, averaged ones first."""

CONTAINERS_OF_CAFFE2 = ("blobs",)

_BOOKKEEPING = ("num_batches_tracked", "n_averaged")
_BOOKKEEPING_OF_CAFFE2 = ("_momentum", "model_iter", "lr")


@dataclass(frozen=True)
class Tensors:
    """Tensors by name, and the container's key that they came from (``""``: none)."""

    tensors: dict[str, Tensor]
    container: str = ""
    siblings: Mapping[str, object] = field(default_factory=dict)
    """What stood beside the container: author, metadata, ..."""


def find_tensors(path: str, data: object) -> Tensors:
    """The weights among what a file holds, without counters of batches.

    Averaged weights (EMA) come before the last ones, as in timm.

    Raises:
        InputError: there are none, or an array repeats its memory.
    """
    container, siblings = "", {}
    while isinstance(data, Mapping):
        tensors = {
            name: tensor
            for name, value in ((str(key), value) for key, value in data.items())
            if not _is_bookkeeping(name) and (tensor := _as_tensor(path, name, value)) is not None
        }
        inner = [
            key
            for key in (*CONTAINERS, *CONTAINERS_OF_CAFFE2)
            if isinstance(data.get(key), Mapping) and data[key]
        ]
        if tensors and not inner:
            return Tensors(tensors, container, siblings)
        if not inner:
            break
        container, siblings, data = inner[0], {**siblings, **data}, data[inner[0]]
    keys = ", ".join(map(repr, list(data)[:5])) if isinstance(data, Mapping) else ""
    held = f"its entries are {keys}" if keys else f"it is a {type(data).__name__}"
    raise InputError(f"{path}: holds no weights, {held}; expected tensors by name")


def _is_bookkeeping(name: str) -> bool:
    return name.endswith(_BOOKKEEPING) or name.endswith(_BOOKKEEPING_OF_CAFFE2[:2]) or name == "lr"


def _as_tensor(path: str, name: str, value: object) -> Tensor | None:
    """A floating-point tensor of what is one; None for everything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        steps = zip(value.shape, value.strides, strict=True)
        span = value.itemsize + sum((side - 1) * abs(stride) for side, stride in steps)
        if value.nbytes > span:
            raise _repeats(path, name, value.shape)
        value = torch.from_numpy(np.ascontiguousarray(value))
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def check_finite(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError, naming them, when tensors hold NaN or Inf.

    Also for a tensor that is larger than its memory (``expand``): to look at all of it, or to copy
    it, could take any amount of memory, whatever the size of the file.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise InputError(f"{path}: {name} is no dense tensor ({tensor.layout})")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise _repeats(path, name, tuple(tensor.shape))
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{path}: {len(broken)} of {len(tensors)} tensors hold NaN or Inf (first: "
            f"{broken[0]}); the training that wrote them diverged, or the file is damaged"
        )


def _repeats(path: str, name: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"{path}: {name} has the shape {shape} and fewer numbers than that (an expanded view); "
        "expected every number of a weight in the file"
    )
