"""A kind of layer for tests: its blocks have the kinds of layers/attention.py in turns."""

from __future__ import annotations

import inspect
import itertools

from torch import nn

from lambda_det.backbone import LAYER_REGISTRY
from lambda_det.layers.attention import KINDS

_TURNS = itertools.cycle(KINDS)


@LAYER_REGISTRY.register()
def next_kind(channels: int) -> nn.Module:
    """A small layer of the next kind."""
    layer = KINDS[next(_TURNS)]
    few = {"num_heads": 2, "query_depth": 4, "scope": 5}
    known = inspect.signature(layer).parameters
    return layer(channels, **{name: value for name, value in few.items() if name in known})


def kinds_in(model: nn.Module) -> set[str]:
    """The kinds of which a model has layers."""
    return {name for name, kind in KINDS.items() for m in model.modules() if type(m) is kind}
