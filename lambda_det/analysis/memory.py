"""Memory that training holds between forward and backward."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from lambda_det.analysis.parts import part_of


def activation_bytes(model: nn.Module, *inputs: object, prefix: str = "") -> Counter[str]:
    """Bytes that autograd keeps for the backward pass of one forward, by part.

    A storage that several operators keep is counted once, for the part that keeps it first.
    Parameters and buffers are not counted: they are there anyway. On the meta device nothing is
    computed or allocated; kernels of a GPU may keep a little more (cuDNN's reserves).

    Args:
        model: in the mode (training or not) that is asked about.
        inputs: of the model, on its device.
        prefix: name of the model in the detector it belongs to, such as ``"backbone"``.

    Returns:
        Part (see :func:`lambda_det.analysis.parts.part_of`) -> bytes.
    """
    # PyTorch gives out one Python object for a storage as long as that object lives, so its id is
    # a key where data_ptr() is none: that is 0 for every meta tensor.
    storages = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
    permanent = {id(storage) for storage in storages}
    running: list[str] = []
    kept: dict[int, tuple[torch.UntypedStorage, str]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in permanent and id(storage) not in kept:
            # Held on to, so that no later storage gets the same key.
            kept[id(storage)] = (storage, running[-1] if running else prefix)
        return tensor

    def enter(name: str):
        return lambda _module, _inputs: running.append(name)

    def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
        running.pop()

    handles = []
    for name, module in model.named_modules():
        full_name = ".".join(filter(None, (prefix, name)))
        handles.append(module.register_forward_pre_hook(enter(full_name)))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
            outputs = model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    del outputs  # until here: the graph's own tensors live as long as it does
    counts: Counter[str] = Counter()
    for storage, name in kept.values():
        counts[part_of(name)] += storage.nbytes()
    return counts
