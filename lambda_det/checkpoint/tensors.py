"""Search for the weights in a checkpoint's nested containers, and checks of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lambda_det.errors import InputError

EMA_CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
CONTAINERS = (
    *EMA_CONTAINERS,
    *("model", "state_dict", "model_state", "model_state_dict", "module"),
    "blobs",  # Caffe2's
)
"""Keys under which training scripts save weights. Averaged weights (EMA) come first."""

_BOOKKEEPING = ("num_batches_tracked", "n_averaged", "_momentum", "model_iter")  # ends of names


@dataclass(frozen=True)
class Tensors:
    """The weights in a checkpoint.

    Attributes:
        tensors: name -> floating-point tensor.
        container: key under which they were found; ``""`` = at the top level.
        siblings: the other entries beside that key, such as the author and the metadata.
    """

    tensors: dict[str, Tensor]
    container: str = ""
    siblings: Mapping[str, object] = field(default_factory=dict)


def find_tensors(path: str, data: object) -> Tensors:
    """Find the weights in the content of a checkpoint.

    Averaged weights (EMA) are preferred to the last ones, as in timm. Counters such as
    ``num_batches_tracked`` are left out.

    Args:
        path: the file, for the messages.
        data: the content of the file.

    Raises:
        InputError: the content has no weights, or an array is a view larger than its memory.
    """
    container, siblings = "", {}
    while isinstance(data, Mapping):
        tensors = {
            name: tensor
            for name, value in ((str(key), value) for key, value in data.items())
            if not name.endswith(_BOOKKEEPING)
            and name != "lr"  # Caffe2's learning rate
            and (tensor := _as_tensor(path, name, value)) is not None
        }
        inner = [key for key in CONTAINERS if isinstance(data.get(key), Mapping) and data[key]]
        if tensors and not inner:
            return Tensors(tensors, container, siblings)
        if not inner:
            break
        container, siblings, data = inner[0], {**siblings, **data}, data[inner[0]]
    keys = ", ".join(map(repr, list(data)[:5])) if isinstance(data, Mapping) else ""
    found = f"its entries are {keys}" if keys else f"its content is a {type(data).__name__}"
    raise InputError(f"{path}: contains no weights: {found}; expected tensors by name")


def _as_tensor(path: str, name: str, value: object) -> Tensor | None:
    """Return a floating-point tensor or array as a tensor; None for everything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        steps = zip(value.shape, value.strides, strict=True)
        span = value.itemsize + sum((side - 1) * abs(stride) for side, stride in steps)
        if value.nbytes > span:
            raise _expanded_view(path, name, value.shape)
        value = torch.from_numpy(np.ascontiguousarray(value))
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def check_finite(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError if a tensor contains NaN or infinity, is sparse, or is an expanded view.

    An expanded view (``Tensor.expand``) has more entries than its memory. A small file can contain
    one of any size, so that a copy of it would need any amount of memory.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise InputError(f"{path}: {name} is not a dense tensor ({tensor.layout})")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise _expanded_view(path, name, tuple(tensor.shape))
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(
            f"{path}: {len(broken)} of {len(tensors)} tensors contain NaN or Inf (first: "
            f"{broken[0]}); the training that wrote them diverged, or the file is damaged"
        )


def _expanded_view(path: str, name: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"{path}: {name} has the shape {shape}, but the file contains fewer numbers than that (it "
        "is an expanded view); save a contiguous copy of it"
    )
