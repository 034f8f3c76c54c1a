"""The layer that stands at the lambda blocks, by name or as a callable."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lambda_det.errors import InputError, reason_of
from lambda_det.layers.attention import KINDS
from lambda_det.layers.lambda_layer import LambdaLayer

logger = logging.getLogger(__name__)

Kind = str | Callable[[int], nn.Module]
"""A name of :data:`KINDS`; ``"package.module.name"``; or a function from a number of channels to a
module that maps (N, channels, H, W) to the same shape."""

_ARGUMENTS = {
    name: parameter.default
    for name, parameter in inspect.signature(LambdaLayer).parameters.items()
    if name not in ("in_channels", "out_channels", "norm", "shared_embedding")
}


LAYER_ARGUMENTS = _ARGUMENTS.keys()
"""The arguments of :func:`build_lambda_resnet` that are a layer's."""


def find_kind(kind: Kind) -> Kind:
    """Return a name of :data:`KINDS` as it is, and what another name stands for.

    Raises:
        InputError: the name is unknown, or what it names cannot be imported or called.
    """
    if callable(kind) or (isinstance(kind, str) and kind in KINDS):
        return kind
    module, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
    if not (module and name):
        raise InputError(
            f"kind={kind!r}: expected one of {', '.join(map(repr, KINDS))}, 'package.module.name', "
            "or a callable"
        )
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever that module does when it is imported
        raise InputError(
            f"kind={kind!r}: cannot be imported ({type(error).__name__}: {reason_of(error)})"
        ) from error
    if not callable(found):
        raise InputError(f"kind={kind!r}: is no class or function")
    return found


def arguments_of_kind(kind: Kind) -> dict[str, Any]:
    """The arguments of :func:`build_lambda_resnet` that a layer of this kind takes, with its own
    defaults; none for a callable or the name of one."""
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
                f"{name}={value!r}: a layer of kind {_title(kind)} does not have it, expected "
                f"{_ARGUMENTS[name]!r}; its arguments are {', '.join(own) or 'its channels alone'}"
            )
    return {name: value for name, value in arguments.items() if name in own}


def check_lambda_only(kind: Kind, **options: object) -> None:
    """Raise InputError if an option that only lambda layers have is set for another kind."""
    for name, value in options.items():
        if kind != "lambda" and value not in (None, False):
            raise InputError(
                f"{name}={value!r}: is for lambda layers only, not for kind {_title(kind)}"
            )


def make_layer(kind: Kind, channels: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a layer of another kind than ``"lambda"`` for a number of channels."""
    layer = kind(channels) if callable(kind) else KINDS[kind](channels, **arguments)
    if not isinstance(layer, nn.Module):
        raise InputError(f"kind={_title(kind)}: returned {layer!r}, expected a torch.nn.Module")
    return layer


def takes_mask(layer: nn.Module) -> bool:
    """Whether a layer's forward has an argument ``padding_mask``."""
    return "padding_mask" in inspect.signature(layer.forward).parameters


def warn_of_padding(kind: Kind, network: nn.Module) -> None:
    """Warn if layers of this kind cannot leave out the padding."""
    layers = (getattr(block, "spatial_layer", None) for block in network.modules())
    if any(layer is not None and not takes_mask(layer) for layer in layers):
        logger.warning(
            "mask_padding: the forward of a layer of kind %s has no argument padding_mask; it "
            "reads the padding of a batch as zeros",
            _title(kind),
        )


def _title(kind: Kind) -> str:
    return repr(getattr(kind, "__qualname__", kind))
