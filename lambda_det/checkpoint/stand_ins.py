"""Inert stand-ins for the objects in a pickle whose class or function is not known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from lambda_det.errors import InputError

_MOST_MODULES = 100_000  # modules that share others are visited once for each name
_SCRIPT = "__torch__."  # begins the names of the classes of TorchScript


class StandIn(dict):
    """Takes the place of an object in a pickle; it accepts everything and does nothing.

    It can be constructed and called with any arguments, which gives another stand-in, and given any
    state and entries. It keeps them as data, because the weights can be inside: of a module that
    was pickled whole, or of a dict of another class.

    Attributes:
        path: the full name in the pickle, such as ``"pathlib.PosixPath"``.
        arguments: what the object was made with.
        state: what pickle would have given to ``__setstate__``.
    """

    __slots__ = ("arguments", "state")

    path = ""

    def __new__(cls, /, *arguments: object, **keywords: object) -> StandIn:
        self = super().__new__(cls)
        self.arguments, self.state = (*arguments, *keywords.values()), None
        return self

    def __init__(self, /, *arguments: object, **keywords: object) -> None:
        """Keep an argument from filling the dict."""

    def __call__(self, *arguments: object, **keywords: object) -> StandIn:
        return type(self)(self, *arguments, **keywords)

    def __setstate__(self, state: object) -> None:
        # Because this method exists, a pickle cannot set attributes of a stand-in or of its class.
        self.state = state

    def append(self, item: object) -> None:
        """Take an item of a list or set of another class, and leave it out."""

    extend = add = append

    # A stand-in can be a key or an item of a set, unlike a dict.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"<{self.path}>"


def stand_in_class(path: str) -> type[StandIn]:
    """Return a new class of stand-ins for a name in a pickle."""
    return type("StandIn", (StandIn,), {"__slots__": (), "path": path})


def entries(value: object) -> Mapping | None:
    """Return the named entries of a mapping or a stand-in; None for everything else.

    Those of a stand-in for a module are its state dict, as far as it was pickled.
    """
    if not isinstance(value, StandIn):
        return value if isinstance(value, Mapping) else None
    if is_module(value):
        return dict(_state_dict(value))
    given = value.state if isinstance(value.state, tuple) else (value.state,)
    found: dict = {}
    for part in (*value.arguments, *given):
        if isinstance(part, Mapping) and not isinstance(part, StandIn):
            found |= part
    return found | dict(value)


def is_module(value: object) -> bool:
    """Whether this is a stand-in for a module of ``torch.nn`` or of TorchScript."""
    state = value.state if isinstance(value, StandIn) else None
    return isinstance(state, Mapping) and (
        {"_parameters", "_buffers", "_modules"} <= state.keys() or value.path.startswith(_SCRIPT)
    )


def _state_dict(module: StandIn) -> Iterator[tuple[str, object]]:
    visited = 0
    around: set[int] = set()  # a damaged file's module can be inside itself
    waiting: list[tuple[StandIn, str | None]] = [(module, "")]
    while waiting:
        module, prefix = waiting.pop()
        if prefix is None:  # all inside it were visited
            around.discard(id(module))
            continue
        if id(module) in around:
            continue
        around.add(id(module))
        visited += 1
        if visited > _MOST_MODULES:
            raise InputError(f"it has more than {_MOST_MODULES} modules, or some in it many times")
        waiting.append((module, None))
        state = module.state
        if module.path.startswith(_SCRIPT):  # has the three in one
            state = {kind: state for kind in ("_parameters", "_modules")}
        passing = state.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set) else set()
        for name, value in _parts(state["_parameters"]).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
        for name, value in _parts(state.get("_buffers")).items():
            if isinstance(value, Tensor) and name not in passing:
                yield f"{prefix}{name}", value
        inner = _parts(state["_modules"]).items()
        modules = [(each, f"{prefix}{name}.") for name, each in inner if is_module(each)]
        waiting.extend(reversed(modules))


def _parts(value: object) -> Mapping:
    return {} if is_module(value) else entries(value) or {}  # only modules have modules


def holds_tensor(value: object, kinds: tuple[type, ...] = (Tensor,), depth: int = 4) -> bool:
    """Whether a stand-in was made with, or given, an object of these kinds."""
    if isinstance(value, kinds):
        return True
    if depth == 0:
        return False
    inner: tuple = ()
    if isinstance(value, StandIn):
        inner = (*value.arguments, value.state, *value.values())
    elif isinstance(value, Mapping):
        inner = tuple(value.values())
    elif isinstance(value, (list, tuple)):
        inner = tuple(value)
    return any(holds_tensor(each, kinds, depth - 1) for each in inner)
