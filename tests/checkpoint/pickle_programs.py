"""Programs of pickle's opcodes that leave one object each, and the files that hold them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

HEAD, END = b"\x80\x04", b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def plain(value: object) -> bytes:
    """Numbers, text, bytes and containers of these, without a memo."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(plain, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(plain, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(plain(k) + plain(v) for k, v in value.items()) + b"u"
    if isinstance(value, str):
        return text(value)
    return pickle.dumps(value, protocol=2)[2:-1].replace(b"q\x00", b"")


def name(full: str) -> bytes:
    module, _, last = full.rpartition(".")
    return b"c" + f"{module}\n{last}\n".encode()


def together(*objects: bytes) -> bytes:
    return b"(" + b"".join(objects) + b"t"


def call(full: str, *arguments: bytes) -> bytes:
    return name(full) + together(*arguments) + b"R"


def put(program: bytes, number: int) -> bytes:
    return program + b"q" + bytes([number])


def get(number: int) -> bytes:
    return b"h" + bytes([number])


def dtype(kind: str) -> bytes:
    return call("numpy.dtype", text(kind))


def state(kind: str, shape: tuple[int, ...], content: bytes) -> bytes:
    """The state of an array; ``content`` is a program."""
    return together(plain(1), plain(shape), dtype(kind), plain(False), content)


def data(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content


def array(kind: str, shape: tuple[int, ...], content: bytes) -> bytes:
    empty = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), plain((0,)))
    return empty + state(kind, shape, content) + b"b"


def view_of(array: bytes, kind: str, shape: tuple[int, ...]) -> bytes:
    return call("numpy.core.numeric._frombuffer", array, dtype(kind), plain(shape), text("C"))


def ordered(attributes: bytes) -> bytes:
    return call("collections.OrderedDict") + attributes + b"b"


def storage(key: str, count: int, kind: str = "torch.FloatStorage") -> bytes:
    pid = together(text("storage"), name(kind), text(key), text("cpu"), plain(count))
    return pid + b"Q"


def tensor(storage: bytes, offset: int, size: tuple, stride: tuple, *flags: bytes) -> bytes:
    view = [plain(offset), plain(size), plain(stride), plain(False), plain({}), *flags]
    return call("torch._utils._rebuild_tensor_v2", storage, *view)


def write_zip(path: Path, program: bytes, storages: dict[str, bytes], folder: str = "w/") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}data.pkl", HEAD + program + END)
        for key, content in storages.items():
            archive.writestr(f"{folder}data/{key}", content)


def write_legacy(
    path: Path, program: bytes, storages: dict[str, tuple[int, bytes]], protocol: int = 2
) -> None:
    """Write a file as torch.save did before 1.6; key -> the count of numbers, and their bytes."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, protocol=protocol) for part in parts)
    content += HEAD + program + END + pickle.dumps(sorted(storages), protocol=protocol)
    for _, (count, numbers) in sorted(storages.items()):
        content += struct.pack("<q", count) + numbers
    path.write_bytes(content)
