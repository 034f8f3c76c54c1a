"""What stands for arrays, tensors and ordered dicts until a pickle has ended, and their exchange.

While a pickle runs, it can set attributes, items and the state of each object that it has made.
With an array of numpy, a tensor, or an object with a ``__dict__``, it could read and write any
memory of the process. It gets holders instead, which only keep what the pickle says.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

from lambda_det.checkpoint.stand_ins import StandIn

LeftOut = Callable[[str], object]
"""Takes the name of a kind that cannot be weights; returns a stand-in, or raises."""


class Holder:
    """Keeps what a pickle says of one object, which is made after the pickle has ended."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Leave it out. Without this method a pickle could set attributes."""

    def inside(self) -> Iterable[object]:
        """Return what was put inside, which can be holders too."""
        return ()

    def make(self, left_out: LeftOut) -> object:
        """Return the object; of a container, an empty one."""
        raise NotImplementedError

    def fill(self, made: object, finished: Callable[[object], object]) -> None:
        """Put into a container what is inside; ``finished`` exchanges the holders."""


class OrderedDictHolder(Holder, dict):
    """Stands for an ``OrderedDict``. Of its attributes PyTorch's ``_metadata`` is kept.

    These are the versions of the modules, which ``load_state_dict`` compares.
    """

    __slots__ = ("_state",)

    def __setstate__(self, state: object) -> None:
        self._state = state

    def inside(self) -> Iterable[object]:
        return (getattr(self, "_state", None), *self, *self.values())

    def make(self, left_out: LeftOut) -> object:
        return collections.OrderedDict()

    def fill(self, made, finished) -> None:
        for key, value in self.items():
            made[finished(key)] = finished(value)
        state = finished(getattr(self, "_state", None))
        # The state itself may not be exchanged yet.
        metadata = finished(state.get("_metadata")) if isinstance(state, dict) else None
        if isinstance(metadata, dict):
            made._metadata = metadata


class CounterHolder(OrderedDictHolder):
    """Stands for a ``Counter``, such as the milestones of a learning rate's schedule."""

    __slots__ = ()

    def make(self, left_out: LeftOut) -> object:
        return collections.Counter()


_LEAVES = {type(None), bool, int, float, complex, str, bytes}
_CONTAINERS = (list, dict, set, tuple, frozenset)


def finished(content: object, left_out: LeftOut) -> object:
    """Exchange all holders in the content of a pickle for the objects that they stand for.

    Lists, dicts, sets and stand-ins stay the same objects, and one holder becomes one object, so
    that what was shared is still shared. The content may be inside itself and of any depth.

    Args:
        content: what the pickle has made.
        left_out: as :meth:`Holder.make` takes it.

    Raises:
        Exception: the file is damaged: an array or a tensor does not fit its memory.
    """
    new: dict[int, object] = {}
    reached = _reachable(content)  # holds all of them, so that an id stays that of one object
    for value in reached:
        if isinstance(value, Holder):
            new[id(value)] = value.make(left_out)

    def get(value: object) -> object:
        return new.get(id(value), value)

    for value in reached:
        if type(value) in (tuple, frozenset):
            _renew(value, new)
    for value in reached:
        if isinstance(value, Holder):
            value.fill(new[id(value)], get)
        elif isinstance(value, StandIn):
            value.arguments, value.state = get(value.arguments), get(value.state)
        if type(value) is list:
            value[:] = map(get, value)
        elif type(value) is set or (isinstance(value, dict) and not isinstance(value, Holder)):
            _exchange(value, get)
    return get(content)


def _reachable(content: object) -> list:
    """Return the containers and holders in the content, each once."""
    found: list = []
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        inside: Iterable[object]
        if isinstance(value, Holder):
            inside = value.inside()
        elif isinstance(value, StandIn):
            inside = (value.arguments, value.state, *value, *value.values())
        elif type(value) is dict:
            inside = (*value, *value.values())
        elif type(value) in _CONTAINERS:
            inside = value
        else:
            continue
        seen.add(id(value))
        found.append(value)
        waiting.extend(each for each in inside if type(each) not in _LEAVES)
    return found


def _renew(value: tuple | frozenset, new: dict[int, object]) -> None:
    """Make a tuple anew if something in it is exchanged, after the tuples in it."""
    waiting: list = [value]
    while waiting:
        value = waiting[-1]
        if id(value) in new:
            waiting.pop()
            continue
        inner = [v for v in value if type(v) in (tuple, frozenset) and id(v) not in new]
        if inner:
            waiting.extend(inner)
            continue
        waiting.pop()
        items = [new.get(id(each), each) for each in value]
        same = all(one is other for one, other in zip(items, value, strict=True))
        new[id(value)] = value if same else type(value)(items)


def _exchange(value: dict | set, get: Callable[[object], object]) -> None:
    if all(get(key) is key for key in value):  # another key has another hash
        if isinstance(value, dict):
            for key, inner in value.items():
                value[key] = get(inner)
        return
    if isinstance(value, dict):
        items = [(get(key), get(inner)) for key, inner in value.items()]
        value.clear()
        value.update(items)
    else:
        keys = list(map(get, value))
        value.clear()
        value.update(keys)
