"""Recognising whose names a state dict has, and the prefix that it puts before them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from lambda_det.checkpoint.name_maps import NAME_MAPS, NameMap
from lambda_det.errors import InputError

_OWN = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)"
    r"res[2-5]\.\d+\.(?:conv[123]|shortcut|lambda_layer|lambda_norm|se)\."
)


@dataclass(frozen=True)
class Layout:
    """``name_map`` None: our own names (which are detectron2's, where it has them too)."""

    name_map: NameMap | None
    prefix: str
    """In front of every name of the backbone: ``"module."``, ``"backbone.bottom_up."``, ..."""

    @property
    def title(self) -> str:
        own = "backbone under the names of detectron2 and lambda_det"
        return own if self.name_map is None else self.name_map.layout

    @property
    def sources(self) -> tuple[str, ...]:
        """What ``tools/convert_weights.py --source`` may call it."""
        if self.name_map is None:
            return ("lambda_det", "detectron2")
        # timm has the ordinary ResNets too, under torchvision's names
        extra = ("timm",) if self.name_map.source == "torchvision" else ()
        return (self.name_map.source, *extra)


def find_layout(names: Collection[str]) -> Layout | None:
    """The layout that explains most names of blocks; None where none explains any.

    Of averaged (``ema.``) and last weights side by side the averaged ones are taken.

    Raises:
        InputError: several prefixes explain themselves equally well.
    """
    votes: Counter[Layout] = Counter()
    for name in names:
        match = _OWN.match(name)
        if match:
            votes[Layout(None, match["prefix"])] += 1
        for name_map in NAME_MAPS:
            prefix = _prefix_of_a_block(name_map, name)
            if prefix is not None:
                votes[Layout(name_map, prefix)] += 1
    if not votes:
        return None
    most = max(votes.values())
    best = [layout for layout, count in votes.items() if count == most]
    first = min((None, *NAME_MAPS).index(layout.name_map) for layout in best)
    best = [layout for layout in best if layout.name_map is (None, *NAME_MAPS)[first]]
    averaged = [layout for layout in best if "ema" in layout.prefix.split(".")]
    best = averaged or best
    if len(best) > 1:
        listing = ", ".join(repr(layout.prefix) for layout in best)
        raise InputError(f"holds several networks, with the prefixes {listing}; keep one of them")
    return best[0]


def _prefix_of_a_block(name_map: NameMap, name: str) -> str | None:
    """The shortest prefix behind which the map knows the name as one of a block's."""
    rest, dot = name, "."
    while dot:
        if name_map.split(rest) and not isinstance(name_map.translate(rest), KeyError):
            return name[: len(name) - len(rest)]
        _, dot, rest = rest.partition(".")
    return None
