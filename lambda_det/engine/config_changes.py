"""What a resumed run's config says differently than the one that it goes on with."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode


def changed_keys(
    saved: str, cfg: CfgNode, relevant: Sequence[str], without_effect: Sequence[str] = ()
) -> list[str]:
    """Lines ``KEY: old -> new`` of what differs from a saved config and changes the training.

    A key that only one of them has says nothing: another version of detectron2 added it.

    Args:
        saved: the config's dump.
        cfg: the config now.
        relevant: what the names of keys that matter begin with.
        without_effect: what the names of exceptions among them begin with.
    """
    old, new = _flat(CfgNode.load_cfg(saved)), _flat(cfg)
    return [
        f"{key}: {old[key]!r} -> {new[key]!r}"
        for key in sorted(old.keys() & new.keys())
        if key.startswith(tuple(relevant))
        and not key.startswith(tuple(without_effect))
        and old[key] != new[key]
    ]


def _flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    keys: dict[str, object] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            keys |= _flat(value, f"{prefix}{key}.")
        else:
            keys[prefix + key] = _without_tuples(value)
    return keys


def _without_tuples(value: object) -> object:
    # YAML knows none.
    return [*map(_without_tuples, value)] if isinstance(value, (list, tuple)) else value
