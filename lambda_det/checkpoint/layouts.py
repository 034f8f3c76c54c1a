"""Detection of a state dict's layout: whose names its tensors have, and their common prefix."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from lambda_det.checkpoint.name_maps import NAME_MAPS, NameMap
from lambda_det.checkpoint.networks import several_networks

EMA_NAMES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
"""Keys, or parts of prefixes, under which training scripts save averaged weights (EMA)."""

NO_PREFIX = "."
"""Name of the network whose tensors have no prefix, beside others that have one."""

_OWN_BLOCK = re.compile(
    r"(?P<prefix>(?:[^.]+\.)*?)"
    r"(?P<stage>res[2-5])\.\d+\.(?:conv[123]|shortcut|lambda_layer|lambda_norm|se|spatial_layer)\."
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
    """Return the layout of the network among the names; None if there is no such network.

    Only the names of tensors in residual blocks are considered. If a file contains averaged
    weights (prefix ``ema.``) beside the last ones, the averaged ones are taken.

    Raises:
        InputError: there are several networks.
    """
    networks = _networks(names)
    averaged = {p: layout for p, layout in networks.items() if {*p.split(".")} & {*EMA_NAMES}}
    best = averaged or networks
    if len(best) > 1:
        raise several_networks({name: len(names_of_network(names, name)) for name in best})
    return next(iter(best.values()), None)


def prefixes_of_networks(names: Collection[str]) -> list[str]:
    """Return the prefixes of the networks among the names, without a dot at their end."""
    return list(_networks(names))


def names_of_network(names: Collection[str], network: str) -> list[str]:
    """Return the names of one network's tensors.

    ``encoder_q`` chooses what is below ``encoder_q.`` or below ``module.encoder_q.``;
    :data:`NO_PREFIX` chooses what has the prefix of no other network. A network that has exactly
    the given name goes before those that have it in their prefix.

    Raises:
        InputError: several networks have the name in their prefix.
    """
    known = prefixes_of_networks(names)
    chosen = [p for p in known if p == network] or [
        prefix for prefix in known if f".{network}." in f".{prefix}."
    ]
    if len(chosen) > 1:
        raise several_networks({name: len(names_of_network(names, name)) for name in chosen})
    if not chosen:
        return []
    # The tensors beside the network, such as its head, have the prefix up to the given name.
    before = f".{chosen[0]}.".index(f".{network}.")
    root = "" if network == NO_PREFIX else f"{chosen[0][: before + len(network)]}."
    others = tuple(f"{p}." for p in known if p != chosen[0] and p.startswith(root))
    return [name for name in names if name.startswith(root) and not name.startswith(others)]


def _networks(names: Collection[str]) -> dict[str, Layout]:
    """Return the networks among the names: prefix, without a dot at its end -> layout.

    Whose names they are is decided for each prefix by the number of names that a map knows, but
    no network hides another that is smaller. The blocks of one stage alone beside those of
    several, such as the res5 in the head of a detector without FPN, are no network.
    """
    votes, stages = Counter[Layout](), defaultdict[str, set[str]](set)
    for name in names:
        match = _OWN_BLOCK.match(name)
        if match:
            votes[Layout(None, match["prefix"])] += 1
            stages[match["prefix"]].add(match["stage"])
        for name_map in NAME_MAPS:
            prefix = _prefix_of_a_block(name_map, name)
            if prefix is not None:
                votes[Layout(name_map, prefix)] += 1
                stages[prefix].add(name_map.split(name.removeprefix(prefix))[0].partition(".")[0])
    # If several maps know equally many names, the first one in NAME_MAPS is taken.
    order = (None, *NAME_MAPS)
    best: dict[str, Layout] = {}
    for layout in sorted(votes, key=lambda each: (-votes[each], order.index(each.name_map))):
        best.setdefault(layout.prefix, layout)
    whole = [prefix for prefix in stages if len(stages[prefix]) > 1] or list(stages)
    return {prefix.rstrip(".") or NO_PREFIX: best[prefix] for prefix in whole}


def _prefix_of_a_block(name_map: NameMap, name: str) -> str | None:
    """Return the shortest prefix after which the map recognises the name of a block's tensor."""
    rest, dot = name, "."
    while dot:
        if name_map.split(rest) and name_map.knows(rest):
            return name[: len(name) - len(rest)]
        _, dot, rest = rest.partition(".")
    return None
