"""Random changes of a JSON value, stored as data so that a finding can be repeated and reduced."""

from __future__ import annotations

import copy
import json
import random

NASTY = (
    None, True, False, 0, 1, -1, 2, 255, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e9, 1e308,
    -1e308, float("nan"), float("inf"), float("-inf"), "", "0", "a", "\0", "\n", "\ud800",
    "../a.png", "/", "é" * 300, [], [[]], {}, [None], [1, 2, 3], [0] * 1000, {"a": {}},
    [[1, 2, 3, 4, 5, 6]],
    {"size": [30, 40], "counts": [1200]}, {"size": [30, 40], "counts": "PZb1"},
    [[0, 0, 1e9, 0, 0, 9]],
)  # fmt: skip
"""Values that are not valid in most places."""

Step = tuple[str, tuple, object]
"""(kind of change, path to the node, new value or None)."""


def random_steps(value: object, rng: random.Random) -> list[Step]:
    """Draw one to four changes of ``value``."""
    paths = list(_paths(value))
    return [_random_step(value, paths, rng) for _ in range(rng.choice((1, 1, 1, 2, 3, 4)))]


def changed(value: object, steps: list[Step]) -> object:
    """Apply the steps to a copy of ``value``; skip a step whose node does not exist any more."""
    value = [copy.deepcopy(value)]
    for kind, path, more in steps:
        try:
            parent = value
            for key in (0, *path)[:-1]:
                parent = parent[key]
            _apply(kind, parent, (0, *path)[-1], more)
        except (KeyError, IndexError, TypeError):
            continue
    return value[0]


def as_text(value: object, rng: random.Random) -> bytes:
    """``value`` as JSON text, which is sometimes damaged."""
    text = json.dumps(value).encode()
    damage = rng.random()
    if damage < 0.9 or not text:
        return text
    place = rng.randrange(len(text))
    if damage < 0.93:
        return text[:place]
    if damage < 0.97:
        return text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]
    return text[:place] + rng.choice((b"\xff", b"[" * 5000, b'"', b"}", b"\\ud800")) + text[place:]


def random_text(text: str, rng: random.Random) -> str:
    """``text`` with a character changed or added, truncated, rotated or repeated."""
    place = rng.randrange(len(text) + 1)
    letter = chr(rng.choice((rng.randrange(48, 112), rng.randrange(1, 256), 0x20AC)))
    return rng.choice((text[:place], text + letter, text[:place] + letter + text[place + 1 :],
                       text[place:] + text[:place], text * 2))  # fmt: skip


def _random_step(value: object, paths: list[tuple], rng: random.Random) -> Step:
    path = rng.choice(paths)
    node = value
    for key in path:
        node = node[key]
    kind = rng.choice(("put", "put", "put", "drop", "double", "move", "shake", "shake"))
    if kind == "move":
        other = value
        for key in rng.choice(paths):
            other = other[key]
        return "put", path, copy.deepcopy(other)
    if kind == "shake":
        if isinstance(node, str):
            return "put", path, random_text(node, rng)
        if isinstance(node, (int, float)):
            factor = rng.choice((-1, 0.5, 3, 100, 1e6))
            return (
                "put",
                path,
                rng.choice((node * factor, node + rng.choice((-1, 1, 0.5)), str(node))),
            )
        kind = "drop"
    if not path:
        kind = "put"  # the whole value cannot be dropped
    return kind, path, copy.deepcopy(rng.choice(NASTY)) if kind == "put" else None


def _apply(kind: str, parent, key, more: object) -> None:
    if kind == "drop":
        del parent[key]
    elif kind == "double" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    else:
        parent[key]  # raises if the node does not exist
        parent[key] = copy.deepcopy(more)


def _paths(value: object, path: tuple = ()):
    yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(item, (*path, key))
