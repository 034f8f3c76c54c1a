"""BatchNorm that an export has folded into the convolution before it: recognised, and unfolded.

A folded convolution has a bias and no norm: ``W'x + b'`` with ``W' = W * weight / sigma`` and
``b' = bias - mean * weight / sigma``. The norm's statistics are lost. In evaluation a norm that
only adds ``b'`` gives the same function. In training, however, BatchNorm divides by the deviation
of the batch, so that the network starts from another function than the one in the file.

With the mean ``m`` and the variance ``v`` of ``W'x`` on images, the norm of mean ``m``, variance
``v``, weight ``sqrt(v + eps)`` and bias ``b' + m`` gives the same function in evaluation, and in
training the same up to the difference between the batch's statistics and these.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint.architecture import Architecture
from lambda_det.errors import InputError, key

logger = logging.getLogger(__name__)

MEASURE_NORMS_KEY = "MODEL.LAMBDA_RESNET.MEASURE_NORMS"

Item = TypeVar("Item")

Statistics = tuple[Tensor, Tensor]
"""Mean and variance (C,) of the channels before a norm, float64, on the CPU."""

EPS = 1e-5
"""What BatchNorm adds to the variance; the same in every network of lambda_det and detectron2."""

_FOLDED = re.compile(
    r"(?:stem\.conv\d|res[2-5]\.\d+\.(?:conv[123]|shortcut|lambda_layer\.(?:query|value)))\.bias"
)
_LEAVES = ("weight", "bias", "running_mean", "running_var")
_TOLERANCE = 2e-6  # of the variance 1 - EPS, so that the 1 of a norm that is new differs from it


def with_norms(tensors: Mapping[str, Tensor], *, affine: bool = False) -> dict[str, Tensor]:
    """Give every folded convolution a norm that computes the same function in evaluation.

    A bias before a norm that has statistics goes into their mean. Of a norm that is new, the mean
    is 0 and the variance ``1 - EPS``, as those of a FrozenBN that is new.

    Args:
        tensors: of the bare backbone.
        affine: whether a norm with weight and bias alone is one whose statistics were folded into
            these two, as in Caffe2's files. In others it may be a GroupNorm.

    Returns:
        The tensors themselves if nothing is folded.
    """
    found = dict(tensors)
    for name in tensors:
        if not _FOLDED.fullmatch(name):
            continue
        convolution = name.removesuffix(".bias")
        norm = norm_after(convolution)
        mean = found.get(f"{norm}.running_mean")
        if mean is not None and mean.shape == tensors[name].shape:
            # A norm with statistics takes the bias off again: exact in evaluation and training.
            bias = found.pop(name)
            bias = bias.to(torch.promote_types(bias.dtype, torch.float32))
            found[f"{norm}.running_mean"] = mean - bias
        elif f"{convolution}.weight" in tensors and not any(n.startswith(norm) for n in tensors):
            bias = found.pop(name)
            found |= {f"{norm}.weight": torch.ones_like(bias), f"{norm}.bias": bias}
            found |= _no_statistics(norm, bias)
    if affine:
        norms = [name.removesuffix(".weight") for name in tensors if name.endswith("norm.weight")]
        for norm in norms:
            if f"{norm}.running_mean" not in found and f"{norm}.running_var" not in found:
                found |= _no_statistics(norm, found[f"{norm}.weight"])
    return found


def norm_after(convolution: str) -> str:
    """Return the name of the norm after a convolution."""
    return f"{convolution}_norm" if ".lambda_layer." in convolution else f"{convolution}.norm"


def _no_statistics(norm: str, like: Tensor) -> dict[str, Tensor]:
    # In float16, 1 - EPS would be 1.
    zeros = torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32))
    return {f"{norm}.running_mean": zeros, f"{norm}.running_var": zeros + (1 - EPS)}


def norms_without_statistics(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the norms whose statistics are those that :func:`with_norms` gives."""
    suffix = ".running_var"
    norms = [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]
    return [norm for norm in norms if _has_no_statistics(norm, tensors)]


def _has_no_statistics(norm: str, tensors: Mapping[str, Tensor]) -> bool:
    mean, variance = tensors.get(f"{norm}.running_mean"), tensors[f"{norm}.running_var"]
    if mean is None or torch.any(mean):
        return False
    return bool(torch.all((variance.double() - (1 - EPS)).abs() < _TOLERANCE))


def trained_without_statistics(loaded: Mapping[str, Tensor], backbone: nn.Module) -> list[str]:
    """Return the names of the norms that were loaded without statistics and take part in training.

    Args:
        loaded: the tensors that were loaded, under the bare backbone's names.
        backbone: it has a FrozenBN where the statistics do not change.
    """
    trained = _trained_norms(backbone)
    return [name for name in norms_without_statistics(loaded) if name in trained]


def _trained_norms(backbone: nn.Module) -> set[str]:
    return {
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }


def warn_of_training(
    path: str, norms: Sequence[str], loaded: Collection[str], backbone: nn.Module
) -> None:
    """Warn of what :func:`trained_without_statistics` has found, with the remedies of this model.

    FrozenBN is one of them only if the file fills every norm: a frozen norm that is new would
    never normalise, and one whose weight was set to 0 would keep its block closed.

    Args:
        path: the value of MODEL.WEIGHTS, for the message.
        norms: the names of these norms.
        loaded: the names of the tensors that were loaded.
        backbone: the network.
    """
    leaves = [f"{norm}.{leaf}" for norm in _trained_norms(backbone) for leaf in _LEAVES]
    node = "LAMBDA_RESNET" if hasattr(backbone, "frozen_without_weights") else "RESNETS"
    freeze = f"{key(f'MODEL.{node}.NORM')} 'FrozenBN', or " if {*leaves} <= {*loaded} else ""
    logger.warning(
        "%s=%r has BatchNorm whose statistics were merged into weights and biases: %d norms "
        "(first: %s) are without statistics, which is right in evaluation, but BN would train "
        "another function; set %s%s 64 (in a YAML config), which measures them on 64 training "
        "images",
        key("MODEL.WEIGHTS"), path, len(norms), norms[0], freeze, key(MEASURE_NORMS_KEY),
    )  # fmt: skip


def unfold(
    path: str, tensors: Mapping[str, Tensor], architecture: Architecture, images: Iterable[Tensor]
) -> tuple[dict[str, Tensor], int]:
    """Give the norms without statistics those that are measured on images.

    Args:
        path: the file of weights, for the messages.
        tensors: of the bare backbone, with the norms of :func:`with_norms`.
        architecture: arguments of ``build_lambda_resnet`` that build the network of the tensors.
        images: inputs (N, 3, H, W) as the network expects them, of any sizes.

    Returns:
        The tensors with the measured norms, and the number of these norms.

    Raises:
        InputError: no norm is without statistics, a tensor of the network is missing, so that
            nothing could be measured behind it, or the measured values are not finite.
    """
    norms = norms_without_statistics(tensors)
    if not norms:
        raise InputError(
            f"{path}: every norm in the file has statistics, so there is nothing to measure; leave "
            "out --measure-on"
        )
    plain = {"norm": "BN", "out_features": ("res5",), "num_classes": None, "freeze_at": 0}
    network = build_lambda_resnet(**{**architecture, **plain})
    dtype = tensors[f"{norms[0]}.weight"].dtype
    network.to(dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("batches_tracked")}
    for name, tensor in state.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise InputError(
                f"{path}: --measure-on needs the whole network, but {name} is missing or has "
                "another shape"
            )
    network.load_state_dict({name: tensors[name] for name in state}, strict=False)
    set_statistics(network, measure(network, norms, images), path)
    changed = {
        name: state[name] for norm in norms for leaf in _LEAVES for name in [f"{norm}.{leaf}"]
    }
    return {**tensors, **changed}, len(norms)


def at_equal_distances(items: Sequence[Item], number: int) -> list[Item]:
    """Return ``number`` items in their order, from the first one on; all if there are fewer."""
    count = min(number, len(items))
    return [items[index * len(items) // count] for index in range(count)]


@torch.no_grad()
def measure(
    network: nn.Module, norms: Iterable[str], images: Iterable[Tensor]
) -> dict[str, Statistics]:
    """Return the mean and the variance of each channel before each norm, over all positions.

    One pass in evaluation mode suffices: what a norm gives does not depend on how it is written.

    Args:
        network: a backbone. It is in the mode that it was in again when this function returns.
        norms: names of its norms.
        images: inputs (N, 3, H, W) as the network expects them, of any sizes.
    """
    sums: dict[str, list[Tensor]] = {}

    def add(norm: str, x: Tensor) -> None:
        x = x.detach().double().transpose(0, 1).flatten(1)  # (C, positions)
        moments = [torch.tensor(float(x.shape[1])), x.sum(1), x.square().sum(1)]
        sums[norm] = (
            [a + b for a, b in zip(sums[norm], moments, strict=True)] if (norm in sums) else moments
        )

    handles = [
        network.get_submodule(norm).register_forward_pre_hook(
            lambda _, inputs, norm=norm: add(norm, inputs[0])
        )
        for norm in norms
    ]
    was_training = network.training
    network.eval()
    like = next(network.parameters())
    try:
        for image in images:
            network(image.to(like))
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return {
        norm: (
            (total / count).cpu(),
            (squares / count - (total / count).square()).clamp(min=0).cpu(),
        )
        for norm, (count, total, squares) in sums.items()
    }


@torch.no_grad()
def set_statistics(network: nn.Module, found: Mapping[str, Statistics], path: str) -> None:
    """Give norms without statistics the measured ones, and the weight and bias that go with them.

    The function in evaluation stays the same up to rounding. A channel that hardly varies on the
    images gets a weight near 0 (never below ``sqrt(EPS)`` times its old one), so that it also stays
    almost constant in training. A weight of 0 stays 0.

    Args:
        network: the backbone, which is changed.
        found: name of a norm -> what :func:`measure` has found.
        path: the file of weights, for the message.

    Raises:
        InputError: the measured values are not finite.
    """
    for name, (mean, variance) in found.items():
        if not (torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            raise InputError(f"{path}: the statistics of {name} on the images are not finite")
        norm = network.get_submodule(name)
        weight, bias = norm.weight.double().cpu(), norm.bias.double().cpu()
        values = {
            "running_mean": mean,
            "running_var": variance,
            "weight": weight * (variance + EPS).sqrt(),
            "bias": bias + weight * mean,
        }
        for leaf, value in values.items():
            getattr(norm, leaf).copy_(value)
