"""The layer that stands at the lambda blocks, by name or as a callable."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from fvcore.common.registry import Registry
from torch import nn

from lambda_det.errors import InputError, reason_of
from lambda_det.layers.attention import KINDS
from lambda_det.layers.lambda_layer import LambdaLayer

logger = logging.getLogger(__name__)

LAYER_REGISTRY = Registry("LAYER")
"""Layers of a user's own, which a config names (``LAYER.KIND``): functions or classes that are
called with a number of channels and return a module that maps (N, channels, H, W) to the same
shape. A config can name nothing else, so that it runs no code but that of modules that the user has
imported.
"""

Kind = str | Callable[[int], nn.Module]
"""A name of :data:`KINDS` or of :data:`LAYER_REGISTRY`, or what the latter could hold."""

_ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(LambdaLayer).parameters.items()
    if name not in ("in_channels", "out_channels", "norm", "shared_embedding")
}


LAYER_ARGUMENTS = _ARGUMENTS.keys()
"""The arguments of :func:`build_lambda_resnet` that are a layer's."""


def find_kind(kind: Kind) -> Kind:
    """Return a name of :data:`KINDS` as it is, and what a name of :data:`LAYER_REGISTRY` stands
    for.

    Raises:
        InputError: the name is unknown or has two meanings, or a module is given in place of what
            makes one.
    """
    if isinstance(kind, nn.Module):
        raise InputError(
            f"kind: expected a class or a function, which is called for each block, not one module "
            f"({type(kind).__name__})"
        )
    if callable(kind):
        return kind
    if not is_known(kind):
        raise InputError(
            f"kind={kind!r}: expected one of {', '.join(map(repr, KINDS))}, or a name that a "
            "module has registered in LAYER_REGISTRY, which --import MODULE imports first"
        )
    if kind not in LAYER_REGISTRY:
        return kind
    if kind in KINDS:
        raise InputError(f"kind={kind!r}: a layer in LAYER_REGISTRY needs another name than this")
    return LAYER_REGISTRY.get(kind)


def is_known(kind: object) -> bool:
    """Whether this is the name of a kind."""
    return isinstance(kind, str) and (kind in KINDS or kind in LAYER_REGISTRY)


def arguments_of_kind(kind: Kind) -> dict[str, Any]:
    """The arguments of :func:`build_lambda_resnet` that a layer of this kind takes, with its own
    defaults; none for a layer of a user's own."""
    if callable(kind) or kind not in KINDS:
        return {}
    parameters = inspect.signature(KINDS[kind]).parameters
    return {name: parameters[name].default for name in _ARGUMENTS if name in parameters}


def changed_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The layer's arguments whose values are not the lambda layer's defaults."""
    return {
        name: arguments[name]
        for name, default in _ARGUMENTS.items()
        if name in arguments and arguments[name] != default
    }


def layer_arguments(kind: Kind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a layer of this kind takes.

    Arguments that only other kinds take may have the lambda layer's default.

    Raises:
        TypeError: no kind has such an argument.
        InputError: the kind does not have an argument whose value is not the default.
    """
    for name in arguments:
        if name not in _ARGUMENTS:
            raise TypeError(f"build_lambda_resnet() got an unexpected keyword argument {name!r}")
    own = arguments_of_kind(kind)
    for name, value in changed_arguments(arguments).items():
        # That nothing is measured holds for the other kinds in any case.
        if name not in own and (name, value) != ("autotune", False):
            raise InputError(
                f"{name}={value!r}: a layer of kind {name_of_kind(kind)!r} does not have it, "
                f"expected {_ARGUMENTS[name]!r}; its arguments are "
                f"{', '.join(own) or 'its channels alone'}"
            )
    return {name: value for name, value in arguments.items() if name in own}


def check_lambda_only(kind: Kind, **options: object) -> None:
    """Raise InputError if an option that only lambda layers have is set for another kind."""
    for name, value in options.items():
        if kind != "lambda" and value not in (None, False):
            raise InputError(
                f"{name}={value!r}: is for lambda layers only, not for kind {name_of_kind(kind)!r}"
            )


def facts_of_kind(kind: Kind, arguments: Mapping[str, Any]) -> dict[str, object]:
    """What the names and shapes of a network's tensors do not show of its layers of another kind
    than ``"lambda"``: the kind, and the number of heads and the scope that hold.

    Args:
        kind: the kind; it need not be known.
        arguments: those of its layer that are given.
    """
    if kind == "lambda":
        return {}
    all_arguments = arguments_of_kind(kind) | dict(arguments)
    names = [name for name in ("num_heads", "scope") if name in all_arguments]
    return {"kind": name_of_kind(kind)} | {name: all_arguments[name] for name in names}


def log_kind(kind: Kind, arguments: Mapping[str, Any]) -> None:
    """Log the arguments that hold for the layers of another kind than ``"lambda"``."""
    values = arguments_of_kind(kind) | dict(arguments)
    words = [
        f"{name} {'by the channels' if value is None else value}"
        for name, value in values.items()
        if name != "max_size" or value is not None
    ]
    logger.info("layers of kind %r%s", name_of_kind(kind), f": {', '.join(words)}" * bool(words))


def make_layer(kind: Kind, channels: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a layer of another kind than ``"lambda"`` for a number of channels.

    Raises:
        InputError: a user's own function or class fails, or returns no module.
    """
    if not callable(kind):
        return KINDS[kind](channels, **arguments)
    try:
        layer = kind(channels)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function does
        raise InputError(
            f"kind={name_of_kind(kind)!r}: failed for {channels} channels "
            f"({type(error).__name__}: {reason_of(error)})"
        ) from error
    if not isinstance(layer, nn.Module):
        raise InputError(
            f"kind={name_of_kind(kind)!r}: returned {type(layer).__name__} for {channels} "
            "channels, expected a torch.nn.Module"
        )
    return layer


def takes_mask(layer: nn.Module) -> bool:
    """Whether a layer's forward has an argument ``padding_mask``."""
    return "padding_mask" in inspect.signature(layer.forward).parameters


def warn_of_padding(kind: Kind, network: nn.Module) -> None:
    """Warn if layers of this kind cannot leave out the padding."""
    layers = (getattr(block, "spatial_layer", None) for block in network.modules())
    if any(layer is not None and not takes_mask(layer) for layer in layers):
        logger.warning(
            "mask_padding: the forward of a layer of kind %r has no argument padding_mask; it "
            "reads the padding of a batch as zeros",
            name_of_kind(kind),
        )


def name_of_kind(kind: Kind) -> str:
    """The name of a kind, for messages and to compare; that of a class or function is its own."""
    if isinstance(kind, str):
        return kind
    # As LAYER_REGISTRY names what is registered.
    return getattr(kind, "__name__", type(kind).__name__)
