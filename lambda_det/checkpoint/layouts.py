"""Detection of a state dict's layout: whose names its tensors have, and their common prefix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from lambda_det.checkpoint.name_maps import NAME_MAPS, NameMap
from lambda_det.checkpoint.networks import several_networks

NO_PREFIX = "."
"""Name of the network whose tensors have no prefix, beside others that have one."""

_OWN_BLOCK = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)"
    r"res[2-5]\.\d+\.(?:conv[123]|shortcut|lambda_layer|lambda_norm|se)\."
)


@dataclass(frozen=True)
class Layout:
    """The layout of a state dict.

    Attributes:
        name_map: the source's names; None = the names of lambda_det, which are detectron2's for
            every module that detectron2 has too.
        prefix: precedes every name of the backbone, such as ``"module."`` or
            ``"backbone.bottom_up."``.
    """

    name_map: NameMap | None
    prefix: str

    @property
    def title(self) -> str:
        """The layout in words, for reports and messages."""
        own = "backbone under the names of detectron2 and lambda_det"
        return own if self.name_map is None else self.name_map.layout

    @property
    def sources(self) -> tuple[str, ...]:
        """The values of ``convert_weights --source`` that this layout matches."""
        if self.name_map is None:
            return ("lambda_det", "detectron2")
        # timm's ordinary ResNets have torchvision's names.
        extra = ("timm",) if self.name_map.source == "torchvision" else ()
        return (self.name_map.source, *extra)


def find_layout(names: Collection[str]) -> Layout | None:
    """Return the layout that matches most of the names; None if no layout matches any.

    Only the names of tensors in residual blocks are considered. If a file contains averaged
    weights (prefix ``ema.``) beside the last ones, the averaged ones are taken.

    Raises:
        InputError: several prefixes match equally many names.
    """
    votes = _votes(names)
    if not votes:
        return None
    most = max(votes.values())
    best = [layout for layout, count in votes.items() if count == most]
    # If several name maps match equally well, the first one in NAME_MAPS is taken.
    name_maps = (None, *NAME_MAPS)
    first = min(name_maps.index(layout.name_map) for layout in best)
    best = [layout for layout in best if layout.name_map is name_maps[first]]
    averaged = [layout for layout in best if "ema" in layout.prefix.split(".")]
    best = averaged or best
    if len(best) > 1:
        networks = [layout.prefix.rstrip(".") or NO_PREFIX for layout in best]
        raise several_networks({name: len(names_of_network(names, name)) for name in networks})
    return best[0]


def prefixes_of_networks(names: Collection[str]) -> list[str]:
    """Return the prefixes after which names of blocks' tensors are recognised, without a dot."""
    return sorted({layout.prefix.rstrip(".") or NO_PREFIX for layout in _votes(names)})


def names_of_network(names: Collection[str], network: str) -> list[str]:
    """Return the names that have the network's name in their prefix.

    ``encoder_q`` matches ``encoder_q.conv1.weight`` and ``module.encoder_q.conv1.weight``;
    :data:`NO_PREFIX` matches what has the prefix of no other network.
    """
    if network == NO_PREFIX:
        others = tuple(f"{prefix}." for prefix in prefixes_of_networks(names))
        return [name for name in names if not name.startswith(others)]
    start, inside = f"{network}.", f".{network}."
    return [name for name in names if name.startswith(start) or inside in name]


def _votes(names: Collection[str]) -> Counter[Layout]:
    """Count the names of blocks' tensors that match each layout."""
    votes: Counter[Layout] = Counter()
    for name in names:
        match = _OWN_BLOCK.match(name)
        if match:
            votes[Layout(None, match["prefix"])] += 1
        for name_map in NAME_MAPS:
            prefix = _prefix_of_a_block(name_map, name)
            if prefix is not None:
                votes[Layout(name_map, prefix)] += 1
    return votes


def _prefix_of_a_block(name_map: NameMap, name: str) -> str | None:
    """Return the shortest prefix after which the map recognises the name of a block's tensor."""
    rest, dot = name, "."
    while dot:
        if name_map.split(rest) and name_map.knows(rest):
            return name[: len(name) - len(rest)]
        _, dot, rest = rest.partition(".")
    return None
