"""The residual branches of a network: how far they have opened, and the network without them.

A bottleneck adds what its branch computes to its shortcut, and the last norm of the branch scales
it. Where that norm starts at 0 (arXiv:1706.02677, section 5.1) a short training may end before a
branch has a part in anything: the network is then its stem, shortcuts and heads, whatever its
blocks are.
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
"""The stages that the two controls of a number leave out: where the lambda layers stand."""


def last_norm(block: CNNBlockBase) -> nn.Module | None:
    """The norm that ends the residual branch of ``block``; None where it has none.

    That is the norm of ``conv3`` in a bottleneck and of ``conv2`` in detectron2's BasicBlock. A
    norm without a scale of its own counts as none.
    """
    last = getattr(block, "conv3", None) or getattr(block, "conv2", None)
    norm = getattr(last, "norm", None)
    return norm if isinstance(getattr(norm, "weight", None), Tensor) else None


def branches(model: nn.Module) -> dict[str, list[CNNBlockBase]]:
    """Stage (``res2`` … ``res5``) -> the residual blocks of the first ResNet in ``model``; {}
    without a ResNet."""
    for module in model.modules():
        if isinstance(module, ResNet):
            return {name: list(getattr(module, name)) for name in module.stage_names}
    return {}


def mean_last_norms(model: nn.Module) -> dict[str, float]:
    """Stage -> mean absolute value of the weights of its last norms.

    0 means that the branches of the stage add nothing. Stages whose blocks end without a norm are
    left out.
    """
    means = {}
    for stage, blocks in branches(model).items():
        weights = [norm.weight for block in blocks if (norm := last_norm(block)) is not None]
        if weights:
            means[stage] = float(torch.cat([w.detach().float().abs() for w in weights]).mean())
    return means


def closed_branches(model: nn.Module) -> tuple[int, int]:
    """How many residual branches add 0 (the weight of their last norm is 0), and of how many.

    Those that are held at 0 on purpose (``idle``) are not counted.
    """
    blocks = [block for stage in branches(model).values() for block in stage]
    norms = [last_norm(block) for block in blocks if not getattr(block, "idle", False)]
    closed = sum(norm is not None and not bool(norm.weight.any()) for norm in norms)
    return closed, len(norms)


@contextlib.contextmanager
def zeroed(model: nn.Module, stages: Collection[str]) -> Iterator[None]:
    """Inside, the residual branches of ``stages`` add 0: their blocks are their shortcuts.

    Weight and bias of each last norm are taken as 0, and are put back behind the block.

    Args:
        model: a backbone or a detector; its first ResNet is meant.
        stages: among ``res2`` … ``res5``.

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
