"""Measures how much the residual branches of a network contribute, and switches them off.

A bottleneck adds the output of its residual branch to its shortcut, and the last norm of the branch
scales that output. If the weight of this norm starts at 0 (arXiv:1706.02677, section 5.1), a short
training may end before a branch contributes anything. The network is then only its stem, shortcuts
and heads, whatever layers its blocks have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn

from lambda_det.errors import InputError

CONTROLLED_STAGES = ("res4", "res5")
"""The stages that hold the lambda layers. The control runs of an experiment switch off or leave out
the residual branches of these stages."""


def last_norm(block: CNNBlockBase) -> nn.Module | None:
    """The norm at the end of the residual branch of ``block``, or None if there is none.

    It is the norm of ``conv3`` in a bottleneck and of ``conv2`` in detectron2's BasicBlock. A norm
    without a weight counts as none.
    """
    last = getattr(block, "conv3", None) or getattr(block, "conv2", None)
    norm = getattr(last, "norm", None)
    return norm if isinstance(getattr(norm, "weight", None), Tensor) else None


def branches(model: nn.Module) -> dict[str, list[CNNBlockBase]]:
    """Stage (``res2`` … ``res5``) -> the residual blocks of the first ResNet in ``model``.

    The dict is empty if ``model`` has no ResNet.
    """
    for module in model.modules():
        if isinstance(module, ResNet):
            return {name: list(getattr(module, name)) for name in module.stage_names}
    return {}


def mean_last_norms(model: nn.Module) -> dict[str, float]:
    """Stage -> mean absolute weight of the last norms of its blocks.

    0 means that the residual branches of the stage add nothing. Stages whose branches end without a
    norm are left out.
    """
    means = {}
    for stage, blocks in branches(model).items():
        weights = [norm.weight for block in blocks if (norm := last_norm(block)) is not None]
        if weights:
            means[stage] = float(torch.cat([w.detach().float().abs() for w in weights]).mean())
    return means


def closed_branches(model: nn.Module) -> tuple[int, int]:
    """Count the residual branches that add 0 because the weight of their last norm is 0.

    Returns:
        The number of these branches and the number of all branches. Branches of ``idle`` blocks,
        which add 0 on purpose, are in neither number.
    """
    blocks = [block for stage in branches(model).values() for block in stage]
    norms = [last_norm(block) for block in blocks if not getattr(block, "idle", False)]
    closed = sum(norm is not None and not bool(norm.weight.any()) for norm in norms)
    return closed, len(norms)


@contextlib.contextmanager
def zeroed(model: nn.Module, stages: Collection[str]) -> Iterator[None]:
    """A context in which the residual branches of ``stages`` add 0: each block is its shortcut.

    The context sets weight and bias of each branch's last norm to 0 and restores them at its end.

    Args:
        model: a backbone or a detector; the context changes its first ResNet.
        stages: names among ``res2`` … ``res5``.

    Raises:
        InputError: the model has no such stage, or a branch in it ends without a norm.
    """
    known = branches(model)
    tensors = []
    for stage in stages:
        if stage not in known:
            allowed = ", ".join(known) or "none: the model has no ResNet"
            raise InputError(f"stage {stage!r} cannot be zeroed; the model's stages are {allowed}")
        for block in known[stage]:
            norm = last_norm(block)
            if norm is None:
                raise InputError(
                    f"stage {stage!r} cannot be zeroed: the residual branch of a block ends "
                    "without a norm (MODEL.LAMBDA_RESNET.NORM)"
                )
            affine = norm.weight, getattr(norm, "bias", None)
            tensors += [tensor for tensor in affine if tensor is not None]
    kept = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
