"""Whatever a pickle says, reading it imports, calls and changes nothing of this process."""

from __future__ import annotations

import collections
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterator

import numpy as np
import pickle_programs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_det.checkpoint.holders import Holder
from lambda_det.checkpoint.pickled_tensors import Memory, Storage
from lambda_det.checkpoint.restricted_pickle import ForbiddenName, finish, load_pickle, run_pickle
from lambda_det.checkpoint.stand_ins import StandIn
from lambda_det.checkpoint.torch_files import TORCH_NAMES

CANARY = "canary_of_the_tests"
EVENTS: list[str] | None = None


def storage(_: object) -> Storage:
    memory = Memory(16)
    memory.data = torch.zeros(16, dtype=torch.uint8)
    return Storage(memory, torch.float32)


def _listen(event: str, arguments: object) -> None:
    if EVENTS is not None:
        EVENTS.append(event)


sys.addaudithook(_listen)  # it cannot be removed, so it listens only where EVENTS is a list


@pytest.fixture(scope="module")
def calls() -> Iterator[list[str]]:
    """A module whose function and class say that they were called."""
    made: list[str] = []
    module = types.ModuleType(CANARY)
    module.run = lambda *arguments, **keywords: made.append("run")

    class Canary:
        def __new__(cls, *arguments: object, **keywords: object) -> Canary:
            made.append("new")
            return super().__new__(cls)

        def __setstate__(self, state: object) -> None:
            made.append("setstate")

    module.Canary = Canary
    sys.modules[CANARY] = module
    yield made
    del sys.modules[CANARY]


NAMES = [
    f"{CANARY} run", f"{CANARY} Canary", f"{CANARY} Canary.__new__", "os system", "posix system",
    "builtins eval", "builtins exec", "builtins getattr", "builtins __import__", "builtins type",
    "builtins object", "copyreg _reconstructor", "copyreg __newobj__", "subprocess Popen",
    "torch.hub load", "torch load", "functools partial", "operator methodcaller", "types CodeType",
    "importlib import_module", "numpy ndarray", "numpy dtype", "numpy load", "argparse Namespace",
    "numpy._core.multiarray _reconstruct", "numpy.core.multiarray scalar", "_codecs encode",
    "numpy.core.numeric _frombuffer", "collections OrderedDict", "collections Counter",
    "collections OrderedDict.fromkeys", "builtins set", "builtins bytearray", "torch FloatStorage",
    "torch float32", "torch Size", "torch._utils _rebuild_tensor_v2", "torch._utils torch.hub.load",
    "torch._utils _rebuild_parameter", "torch.storage _load_from_bytes", "torch Tensor",
    "torch._tensor _rebuild_from_type_v2",
    "torch._utils._rebuild_tensor_v2 __globals__", "torch device", "torch.jit.load __call__",
]  # fmt: skip


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def global_(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def stack_global(name: str) -> bytes:
    return b"".join(map(text, name.split())) + b"\x93"


STORAGE_PROGRAM = (
    b"(" + text("storage") + global_("torch FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
)
ARRAY = pickle_programs.array("f4", (2,), pickle_programs.data(bytes(8)))
WHOLE = [
    ARRAY, pickle_programs.array("O", (1,), pickle_programs.plain(["a"])),
    pickle_programs.view_of(pickle_programs.data(bytes(8)), "i8", (1,)),
    pickle_programs.view_of(b"\x96" + bytes([8]) + bytes(15), "f4", (2, 1)),
    pickle_programs.call("numpy.core.multiarray.scalar", pickle_programs.dtype("u1"), b"C\x01a"),
    pickle_programs.tensor(STORAGE_PROGRAM, 1, (3,), (1,)),
    pickle_programs.tensor(STORAGE_PROGRAM, 0, (4,), (1,), pickle_programs.plain({"neg": True})),
    pickle_programs.call("torch._utils._rebuild_device_tensor_from_numpy", ARRAY,
                         global_("torch float32"), text("cpu"), b"\x89"),
    pickle_programs.ordered(pickle_programs.plain({"__array_interface__": {"data": (16, False)}})),
    STORAGE_PROGRAM,
]  # fmt: skip
STATES = [
    pickle_programs.state("f4", (1,), pickle_programs.data(bytes(4))),
    pickle_programs.state("O", (1,), pickle_programs.data(bytes(8))),
    pickle_programs.state("O", (2,), pickle_programs.plain([1, 2])),
    pickle_programs.together(STORAGE_PROGRAM, *map(pickle_programs.plain, (0, (999,), (1,)))),
    pickle_programs.plain((None, {"data": 16, "shape": (9,), "memory": 1, "_state": (1,)})),
    pickle_programs.plain({"__array_interface__": {"data": (16, False), "shape": (8,)}}),
]
LEAVES = [
    *WHOLE, *WHOLE, *STATES,
    *map(global_, NAMES), *map(stack_global, NAMES),
    *[b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"C\x04\0\0\x80?", b"K\x00", b"K\x02", b"\x82\x01"],
    *map(text, ["latin1", "f4", "__setstate__", "model"]), STORAGE_PROGRAM,
]  # fmt: skip
FORMS = [
    "(*t", "(*l", "(**d", "*(*tR", "*(*t\x81", "*(*t}\x92", "(**o", "**b", "**a", "***s", "*(**u",
    "*(*e", "*(*\x90", "*Q", "**0", "*2\x86", "*\x94h\x00\x86",
    "*N}\x8c\x08__call__*s\x86b",  # a state of (None, {name: value}) sets attributes
    "*\x98", "*q\x01*b*bh\x01K\x00*s\x86", "*q\x01h\x01*\x82\x01\x87",
    *("(*i" + global_(name)[1:].decode() for name in NAMES),
]  # fmt: skip
TAILS = [b"", b"R", b"b", b"\x81", b"0", b"2", b"o", b")R", b")\x81}b", b"}b", b"(K\x01e"]


@st.composite
def programs(draw: Callable, depth: int = 4) -> bytes:
    """A program that leaves one object on the stack; ``*`` in a form is such a program."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(LEAVES))
    first, *others = draw(st.sampled_from(FORMS)).encode("latin1").split(b"*")
    return first + b"".join(draw(programs(depth - 1)) + other for other in others)


def process() -> list[object]:
    """What a pickle could have changed."""
    classes = (StandIn, collections.OrderedDict, collections.Counter, torch.Size, Storage)
    named = [*TORCH_NAMES.values(), *classes]
    return [dict(vars(value)) for value in named if hasattr(value, "__dict__")]


def reached(content: object) -> Iterator[object]:
    """Everything in the content of a pickle, each once."""
    seen: dict[int, object] = {}
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, (list, tuple, set, frozenset)):
            waiting.extend(value)
        if isinstance(value, dict):
            waiting.extend((*value, *value.values()))
        if isinstance(value, (StandIn, Holder)):
            slots = {
                slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())
            }
            waiting.extend(getattr(value, slot, None) for slot in slots - {"memory", "_memory"})


def assert_inert(content: object) -> None:
    """Nothing that a running pickle holds has memory or attributes that it could set."""
    for value in reached(content):
        assert not isinstance(value, (np.ndarray, np.generic, torch.Tensor, torch.UntypedStorage))
        assert isinstance(value, type) or not hasattr(value, "__dict__"), type(value)
        assert not isinstance(value, type) or issubclass(value, StandIn)


def read(program: bytes, unknown: list[str] | None) -> list[str]:
    """Read a pickle and return the audit events: imports, calls and files that were opened."""
    global EVENTS

    file = io.BytesIO(b"\x80\x04" + program + b".")
    EVENTS = events = []
    content: object = None
    try:
        content = run_pickle(file, TORCH_NAMES, unknown=unknown, storage=storage)
    except Exception:
        events.append("failed")
    EVENTS = None
    assert_inert(content)
    EVENTS = events
    try:
        content = finish(content, unknown)
    except Exception:
        events.append("failed")
    finally:
        EVENTS = None
    for value in reached(content):
        if isinstance(value, torch.Tensor):
            ends = sum((s - 1) * step for s, step in zip(value.shape, value.stride(), strict=True))
            end = (value.storage_offset() + ends + 1) * value.element_size()
            assert not value.numel() or end <= value.untyped_storage().nbytes() <= 16
    # PyTorch looks at the code of its own functions when they are used for the first time, and the
    # hash of a tensor is its id.
    return [e for e in events if e not in ("failed", "object.__getattr__", "builtins.id")]


def test_the_canary_would_sing(calls: list[str]) -> None:
    for program in (
        global_(f"{CANARY} run") + b")R",
        stack_global(f"{CANARY} Canary") + b")\x81Nb",
    ):
        pickle.loads(b"\x80\x04" + program + b".")
    assert calls == ["run", "new", "setstate"]
    calls.clear()


@settings(max_examples=1500, deadline=None)
@given(program=programs(), tail=st.sampled_from(TAILS), strict=st.booleans())
def test_no_program_calls_anything(
    calls: list[str], program: bytes, tail: bytes, strict: bool
) -> None:
    before = process()
    events = read(program + tail, None if strict else [])
    assert not calls and not events
    assert process() == before


BUILDS: dict[str, Callable[[bytes], bytes]] = {
    "reduce": lambda name: name + b")R",
    "newobj": lambda name: name + b")\x81",
    "newobj_ex": lambda name: name + b")}\x92",
    "obj": lambda name: b"(" + name + b"o",
    "build": lambda name: name + b")\x81}" + text("a") + b"K\x01sb",
    "append": lambda name: name + b")R(K\x01K\x02e",
    "add": lambda name: name + b")R(K\x01\x90",
    "items": lambda name: name + b")R(" + text("a") + b"K\x01u",
    "called twice": lambda name: name + b")R)R",
    "key": lambda name: b"}" + name + b")RK\x01s",
}


@pytest.mark.parametrize("form", BUILDS)
def test_an_unknown_name_is_inert_in_every_form(form: str, calls: list[str]) -> None:
    program = BUILDS[form](stack_global(f"{CANARY} Canary"))
    unknown: list[str] = []
    found = load_pickle(io.BytesIO(b"\x80\x04" + program + b"."), unknown=unknown)
    found = next(iter(found)) if form == "key" else found
    assert isinstance(found, StandIn) and found.path == f"{CANARY}.Canary"
    assert unknown == [f"{CANARY}.Canary"] and not calls
    with pytest.raises(ForbiddenName, match=f"{CANARY}.Canary"):
        load_pickle(io.BytesIO(b"\x80\x04" + program + b"."))


def test_a_type_of_numbers_that_hides_pointers() -> None:
    """Its state says that eight bytes are a structure with a Python object in it."""
    dtype = global_("numpy dtype") + b"(" + text("V8") + b"\x89\x88tR"
    inner = global_("numpy dtype") + b"(" + text("O8") + b"\x89\x88tR"
    fields = b"}" + text("a") + inner + b"K\x00\x86s"
    dtype += b"(K\x03" + text("|") + b"N" + text("a") + b"\x85" + fields + b"K\x08K\x01K\x00tb"
    array = global_("numpy._core.multiarray _reconstruct") + global_("numpy ndarray")
    array += b"K\x00\x85C\x01b\x87R"
    program = array + b"(K\x01K\x01\x85" + dtype + b"\x89C\x08AAAAAAAAtb"
    ordinary = pickle.loads(b"\x80\x04" + dtype + b".")
    assert ordinary.names == ("a",)  # numpy's own would believe it
    unknown: list[str] = []
    found = load_pickle(io.BytesIO(b"\x80\x04" + program + b"."), unknown=unknown)
    assert isinstance(found, StandIn) and unknown == ["numpy.void"]
    with pytest.raises(ForbiddenName, match=r"numpy\.void"):
        load_pickle(io.BytesIO(b"\x80\x04" + program + b"."))
