"""A pickle reads and writes no memory of the process but its own content."""

from __future__ import annotations

import collections
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pickle_programs import (
    END,
    HEAD,
    array,
    call,
    data,
    dtype,
    get,
    name,
    ordered,
    plain,
    put,
    state,
    storage,
    tensor,
    text,
    together,
    view_of,
    write_zip,
)

from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.restricted_pickle import load_pickle
from lambda_det.checkpoint.stand_ins import StandIn
from lambda_det.errors import InputError

BEFORE = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import torch
from pickle_programs import *
from lambda_det.checkpoint.reading import read_file
from lambda_det.errors import InputError

def read(program, storages=None):
    for stand_ins in (False, True):
        path = Path(sys.argv[1]) / "w"
        write_zip(path, program, storages or {})
        try:
            yield read_file(str(path), stand_ins=stand_ins)
        except InputError:
            pass
        path.write_bytes(HEAD + program + END)
        try:
            yield read_file(str(path), stand_ins=stand_ins)
        except InputError:
            pass

secret = ctypes.create_string_buffer(b"SECRET OF THE PROCESS")
address = ctypes.addressof(secret)

def memory(address, writable):
    interface = {"data": (address, not writable), "shape": (21,), "typestr": "|u1", "version": 3}
    return ordered(plain({"__array_interface__": interface}))
"""
ATTACKS = {
    "interface of an ordered dict": """
zeros = array("u1", (21,), data(bytes(21)))
for found in read(zeros + b")" + memory(address, False) + b"s"):
    assert b"SECRET" not in bytes(found)
for wrong in (16, 2**47):
    list(read(zeros + b")" + memory(wrong, False) + b"s"))
for source in ("numpy", "cpu_tensor"):
    arguments = memory(address, True), name("torch.uint8"), text("cpu"), plain(False)
    for found in read(call(f"torch._utils._rebuild_device_tensor_from_{source}", *arguments)):
        assert b"SECRET" not in bytes(found.tolist())
""",
    "view of a freed array": """
numbers, count = put(array("i8", (20,), data(bytes(160))), 1), 20
view = put(view_of(get(1), "i8", (20,)), 2)
again = get(1) + state("i8", (0,), data(b"")) + b"b0"
objects = array("O", (20,), plain([f"object {number}" for number in range(20)]))
write = get(2) + plain(0) + plain(0x4141414141) + b"s"
for program in (together(numbers, view + again, objects),
                together(numbers, view + again, objects, write)):
    for found in read(program):
        assert not any(found[1].tolist())
        assert [str(each) for each in found[2]][0] == "object 0"
""",
    "state of a tensor": """
small = put(tensor(storage("0", 4), 0, (4,), (1,)), 1)
empty = put(tensor(storage("1", 0), 0, (0,), (1,)), 2)
grown = get(1) + together(get(2), plain(0), plain((10**6,)), plain((1,))) + b"b"
for one, other, _ in read(together(small, empty, grown), {"0": bytes(16), "1": b""}):
    assert one.shape == (4,) and one.untyped_storage().nbytes() == 16
    assert other.shape == (0,) and other.untyped_storage().nbytes() == 0
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_end_without_a_reading_or_a_crash(attack: str, tmp_path: Path) -> None:
    after = "\nassert secret.value == b'SECRET OF THE PROCESS'\nprint('intact')\n"
    code = BEFORE + ATTACKS[attack] + after
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "intact\n"), done.stderr[-2000:]


def load(program: bytes, unknown: list[str] | None = None) -> object:
    return load_pickle(io.BytesIO(HEAD + program + END), unknown=unknown)


def test_an_array_takes_its_first_state_alone() -> None:
    first = array("f4", (2,), data(np.float32([1, 2]).tobytes()))
    found = load(first + state("f4", (1,), data(bytes(4))) + b"b")
    assert found.tolist() == [1, 2]


@pytest.mark.parametrize(
    "target",
    [
        array("u1", (2,), data(b"ab")),
        view_of(data(b"ab"), "u1", (2,)),
        call("numpy.core.multiarray.scalar", dtype("u1"), data(b"a")),
        tensor(storage("0", 4), 0, (4,), (1,)),
        storage("0", 4),
    ],
    ids=["array", "view", "number", "tensor", "storage"],
)
def test_no_item_of_an_array_or_tensor_can_be_set(target: bytes, tmp_path: Path) -> None:
    write_zip(tmp_path / "w", target + plain(0) + plain(1) + b"s", {"0": bytes(16)})
    with pytest.raises(InputError, match="does not support item assignment"):
        read_file(str(tmp_path / "w"))
    attributes = plain({"shape": (9,), "dtype": 1})
    write_zip(tmp_path / "w", target + attributes + b"b", {"0": bytes(16)})
    found = read_file(str(tmp_path / "w"))
    assert getattr(found, "shape", ()) != (9,) and found.dtype in ("u1", torch.float32)


@pytest.mark.parametrize("kind", ["OrderedDict", "Counter"])
def test_attributes_of_ordered_dicts(kind: str) -> None:
    versions = {"": {"version": 1}}
    attributes = plain({"__array_interface__": {"data": (1, True)}, "_metadata": versions})
    values = call(f"collections.{kind}", plain({"b": 2, "a": 1}))
    found = load(values + attributes + b"b")
    assert type(found) is getattr(collections, kind) and list(found.items()) == [("b", 2), ("a", 1)]
    assert vars(found) == {"_metadata": versions}  # as load_state_dict needs it
    assert vars(load(values + plain({"_metadata": 3}) + b"b")) == {}


ONE = array("f4", (1,), data(np.float32([1]).tobytes()))
NUMBER = call("numpy.core.multiarray.scalar", dtype("i8"), data(bytes([7, *bytes(7)])))


def test_holders_are_exchanged_wherever_they_are() -> None:
    thing = call("a.Thing", ONE, together(ONE)) + together(ONE, plain({})) + b"b"
    places = {
        "list": b"]" + ONE + b"a",
        "tuples": together(together(ONE, plain(1)), plain(2)),
        "key": b"}" + NUMBER + ONE + b"s",
        "key in a tuple": b"}" + together(plain(1), together(NUMBER)) + ONE + b"s",
        "set": b"\x8f(" + NUMBER + together(NUMBER) + b"\x90",
        "frozenset": b"(" + together(NUMBER, NUMBER) + b"\x91",
        "thing": thing,
        "item": call("a.Thing") + text("x") + ONE + b"s",
        "ordered": call("collections.OrderedDict") + NUMBER + ONE + b"s",
        "objects": array("O", (2,), b"](" + ONE + b"Ne"),
    }
    program = b"}(" + b"".join(text(key) + value for key, value in places.items()) + b"u"
    found = load(program, [])
    seven, one = np.int64(7), np.float32([1])
    assert found["list"] == [one] and found["tuples"] == ((one, 1), 2)
    assert found["key"] == {seven: one} and found["key in a tuple"] == {(1, (seven,)): one}
    assert found["key"][7] == one and type(next(iter(found["key"]))) is np.int64
    assert found["set"] == {7, (7,)} and found["frozenset"] == frozenset({(7, 7)})
    assert found["thing"].arguments == (one, (one,)) and found["thing"].state == (one, {})
    assert found["item"]["x"] == one and isinstance(found["item"], StandIn)
    assert found["ordered"] == {7: one} and found["objects"] == [one, None]


def test_content_that_is_shared_inside_itself_and_deep(tmp_path: Path) -> None:
    # A list in a tuple in the list, and one array twice.
    inside = b"]q\x01" + together(get(1), put(ONE, 2), get(2)) + b"a"
    found = load(inside)
    assert found[0][0] is found and found[0][1] is found[0][2]
    depth = 100_000
    for program in (b"]" * depth + ONE + b"a" * depth, ONE + b"\x85" * depth):
        inner = load(program)
        for _ in range(depth):
            inner = inner[0]
        assert inner == np.float32([1])
    first = tensor(storage("0", 4), 0, (4,), (1,))
    second = tensor(storage("0", 4), 2, (2,), (1,))
    write_zip(tmp_path / "w", together(put(first, 1), second, get(1)), {"0": bytes(16)})
    one, other, same = read_file(str(tmp_path / "w"))
    one[2] = 5
    assert other.tolist() == [5, 0] and same is one


BAD_TENSORS = {
    "one too many": (0, (5,), (1,)),
    "begins too late": (1, (4,), (1,)),
    "step": (0, (2, 2), (3, 1)),
    "before": (-1, (1,), (1,)),
    "negative step": (3, (2,), (-1,)),
    "negative size": (0, (-2, -2), (1, 1)),
    "overflow": (2**64 - 1, (2,), (1,)),
    "overflow of the steps": (0, (2, 2), (2**63 - 1, 2**63 + 1)),
    "endless": (0, (2**40, 2**40), (0, 0)),
    "dimensions": (0, (1,) * 65, (1,) * 65),
    "strides": (0, (2,), ()),
    "texts": (0, ("2",), (1,)),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_outside_their_storage(case: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "w", tensor(storage("0", 4), *BAD_TENSORS[case]), {"0": bytes(16)})
    with pytest.raises(InputError, match=r"\(a tensor (ends|with)"):
        read_file(str(tmp_path / "w"))
    write_zip(tmp_path / "w", tensor(storage("0", 4), 1, (3, 0), (9, 1)), {"0": bytes(16)})
    assert read_file(str(tmp_path / "w")).shape == (3, 0)


@pytest.mark.parametrize(
    ("kind", "shape", "content"),
    [
        ("u1", (3,), data(b"ab")), ("u1", (-1, -2), data(b"ab")), ("f8", (2**61,), data(b"")),
        ("O", (3,), plain(["a", "b"])), ("O", (1,), data(bytes(8))), ("O", (), plain([])),
        ("u1", (2,), plain(["a", "b"])), ("U", (2**40,), data(b"")), ("u1", (2.0,), data(b"ab")),
        ("u1", (2,), ordered(plain({"__array_interface__": {"data": (16, True)}}))),
        ("u1", (2,), b"\x96" + (2).to_bytes(8, "little") + b"ab\x98"),  # a memoryview
    ],
)  # fmt: skip
def test_arrays_of_another_size_than_their_content(kind: str, shape: tuple, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^an? (array|number)"):
        load(array(kind, shape, content))
    with pytest.raises(ValueError, match=r"^an? (array|number)"):
        load(view_of(content, kind, shape))


@pytest.mark.parametrize(
    "program",
    [
        call("builtins.bytearray", plain(2**60)), call("builtins.bytearray", plain([1])),
        call("builtins.complex", text("1")), call("_codecs.encode", plain([]), text("latin1")),
        call("torch.Size", plain((2**63,))), call("torch.device", plain(0)),
        call("torch._utils._rebuild_device_tensor_from_numpy", plain([1.0]), name("torch.float32")),
        call("torch._utils._rebuild_device_tensor_from_numpy", ONE, name("torch.qint8")),
        call("torch._utils._rebuild_tensor_v3", storage("0", 4), plain(0), plain((1,)),
             plain((1,)), plain(False), plain({}), name("torch.qint8")),
        call("torch._utils._rebuild_tensor_v2", plain((1, 2)), plain(0), plain((1,)), plain((1,))),
        call("torch.storage._load_from_bytes", storage("0", 4)),
        call("torch._utils._rebuild_device_tensor_from_cpu_tensor",
             tensor(storage("0", 4), 0, (2**40,), (0,)), name("torch.float64")),
    ],
)  # fmt: skip
def test_callables_with_arguments_that_make_no_sense(program: bytes, tmp_path: Path) -> None:
    write_zip(tmp_path / "w", program, {"0": bytes(16)})
    with pytest.raises(InputError):
        read_file(str(tmp_path / "w"), stand_ins=True)


@pytest.mark.parametrize("flags", [{"conj": True}, {"neg": True}, {"neg": True, "conj": True}])
def test_flags_of_a_tensor(flags: dict[str, bool], tmp_path: Path) -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    program = tensor(storage("0", 2, "torch.ComplexFloatStorage"), 0, (2,), (1,), plain(flags))
    write_zip(tmp_path / "w", program, {"0": numbers.numpy().tobytes()})
    expected = numbers.conj() if "conj" in flags else numbers
    expected = -expected if "neg" in flags else expected
    assert torch.equal(read_file(str(tmp_path / "w")), expected.resolve_conj())


@pytest.mark.parametrize("flags", [{"other": True}, {"neg": 1}, [1]])
def test_unknown_flags_of_a_tensor(flags: object, tmp_path: Path) -> None:
    write_zip(tmp_path / "w", tensor(storage("0", 4), 0, (4,), (1,), plain(flags)),
              {"0": bytes(16)})  # fmt: skip
    with pytest.raises(InputError, match="unknown flags"):
        read_file(str(tmp_path / "w"))
