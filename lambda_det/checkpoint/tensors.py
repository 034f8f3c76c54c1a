"""Search for the weights in a checkpoint's nested containers, and checks of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lambda_det.checkpoint.layouts import EMA_NAMES, names_of_network, prefixes_of_networks
from lambda_det.checkpoint.networks import no_such_network, several_networks
from lambda_det.checkpoint.stand_ins import StandIn, entries, holds_tensor
from lambda_det.checkpoint.torch_files import Storage
from lambda_det.errors import InputError, shown

CONTAINERS = (
    *EMA_NAMES,
    *("model", "state_dict", "model_state", "model_state_dict", "module"),
    "blobs",  # Caffe2's
)
"""Keys under which training scripts save weights. Averaged weights (EMA) come first."""

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_MAX_DEPTH = 10  # a container in a damaged file can be inside itself
_NO_MODULES = ("torch._", "torch.distributed.")  # sparse, quantised, nested, sharded tensors
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


def find_tensors(path: str, data: object, network: str | None = None) -> Tensors:
    """Find the weights in the content of a checkpoint.

    Averaged weights (EMA) are preferred to the last ones, as in timm. Counters such as
    ``num_batches_tracked`` are left out.

    Args:
        path: the file, for the messages.
        data: the content of the file.
        network: the one to take of several: a key of the file, or a part of the prefix that its
            tensors have; None = the only one.

    Raises:
        InputError: the content has no weights, several networks or none of that name, or an array
            is a view larger than its memory.
    """
    container, siblings, chosen = "", {}, network is None
    for _ in range(_MAX_DEPTH):
        if (found := plain_entries(data)) is None:
            break
        tensors = _tensors_of(path, found)
        inner = _containers(path, found)
        if not chosen and plain_entries(found.get(network)):
            inner, chosen = [network], True
        elif tensors and not inner:
            if not chosen:
                tensors = _of_network(path, tensors, network)
            _refuse_other_tensors(path, found)
            return Tensors(tensors, container, siblings)
        if not inner:
            inner = _networks(path, found, network if not chosen else None)
        if not inner:
            break
        container, siblings, data = inner[0], {**siblings, **found}, found[inner[0]]
    keys = ", ".join(map(shown, list(found or ())[:5]))
    kind = data.path if isinstance(data, StandIn) else type(data).__name__
    text = f"its entries are {keys}" if keys else f"its content is a {kind}"
    raise InputError(f"{path}: contains no weights: {text}; expected tensors by name")


def plain_entries(value: object) -> dict | None:
    """Return the named entries of a mapping or a stand-in; None for everything else.

    A file can give a dict of a class with attributes of its own (OrderedDict) another ``items``.
    """
    found = entries(value)
    if found is None:
        return None
    return dict(dict.items(found) if isinstance(found, dict) else found)


def _containers(path: str, found: Mapping) -> list[str]:
    """Return the keys with weights under which training scripts save them, the best first.

    Those with a network that is known go before others, because a file may have an average of a
    few other values, or the description of the model, under such a key.
    """
    # When mmengine saves, it exchanges the two: the average is in the model's place.
    left_out = {"ema_state_dict"} if "message_hub" in found else set()
    worth = {k: _worth(path, found.get(k), set()) for k in CONTAINERS if k not in left_out}
    return sorted((key for key in worth if worth[key]), key=lambda key: -worth[key])


def _worth(path: str, value: object, seen: set[int], depth: int = _MAX_DEPTH) -> int:
    """Return 2 for what contains a network that is known, 1 for other tensors, 0 for the rest."""
    found = plain_entries(value)
    if not found or id(value) in seen or depth == 0:
        return 0
    seen.add(id(value))
    tensors = _tensors_of(path, found)
    if prefixes_of_networks(tensors):
        return 2
    return max(bool(tensors), *(_worth(path, inner, seen, depth - 1) for inner in found.values()))


def _networks(path: str, found: Mapping, network: str | None) -> list[str]:
    """Return the key of the only network among mappings of other names, such as ``teacher``."""
    counts = {}
    for key, value in found.items():
        inner = plain_entries(value) or {}
        if containers := _containers(path, inner):
            inner = plain_entries(inner[containers[0]]) or {}
        tensors = _tensors_of(path, inner)
        if isinstance(key, str) and prefixes_of_networks(tensors):
            counts[key] = len(tensors)
    if len(counts) > 1:
        error = several_networks(counts) if network is None else no_such_network(network, counts)
        raise InputError(f"{path}: {error}")
    return list(counts)


def _refuse_other_tensors(path: str, found: Mapping) -> None:
    for name, value in found.items():
        is_torch = isinstance(value, StandIn) and value.path.startswith(_NO_MODULES)
        if is_torch and holds_tensor(value, (Tensor, Storage)):
            raise InputError(
                f"{path}: {name} is not a dense tensor ({value.path}); save a plain copy of it"
            )


def _of_network(path: str, tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    try:
        names = names_of_network(tensors, network)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not names:
        raise InputError(f"{path}: {no_such_network(network, prefixes_of_networks(tensors))}")
    return {name: tensors[name] for name in names}


def _tensors_of(path: str, found: Mapping) -> dict[str, Tensor]:
    tensors = {}
    for key, value in found.items():
        if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**63):
            continue  # the text of another key may take forever
        name = str(key)
        # "lr" is Caffe2's learning rate
        if name.endswith(_BOOKKEEPING) or name == "lr":
            continue
        tensor = _as_tensor(path, name, value)
        if tensor is not None:
            tensors[name] = tensor
    return tensors


def _as_tensor(path: str, name: str, value: object) -> Tensor | None:
    """Return a floating-point tensor or array as a tensor; None for everything else."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        steps = zip(value.shape, value.strides, strict=True)
        span = value.itemsize + sum((side - 1) * abs(stride) for side, stride in steps)
        if value.nbytes > span:
            raise _expanded_view(path, name, value.shape)
        # PyTorch has neither the other byte order nor longdouble.
        dtype = np.float64 if value.itemsize > 8 else value.dtype.newbyteorder("=")
        value = torch.from_numpy(np.ascontiguousarray(value, dtype))
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def check_finite(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError if a tensor contains NaN or infinity, is sparse, or is an expanded view, or
    if its type is not one that weights are computed in (float8).

    An expanded view (``Tensor.expand``) has more entries than its memory. A small file can contain
    one of any size, so that a copy of it would need any amount of memory.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise InputError(f"{path}: {name} is not a dense tensor ({tensor.layout})")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise _expanded_view(path, name, tuple(tensor.shape))
        if tensor.dtype not in _DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise InputError(
                f"{path}: {name} has the type {str(tensor.dtype).removeprefix('torch.')}; save it "
                f"as one of {allowed}"
            )
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
