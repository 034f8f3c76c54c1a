"""Files of torch.save of all ages and as people pack them: their storages, records and sums."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pickle_programs import HEAD, call, plain, storage, tensor, text, write_legacy, write_zip

from lambda_det.checkpoint.reading import read_file
from lambda_det.checkpoint.stand_ins import StandIn, entries, stand_in_class
from lambda_det.errors import InputError

W = tensor(storage("0", 4), 0, (4,), (1,))
NUMBERS = np.arange(4, dtype=np.float32)


def refused(path: Path, *, stand_ins: bool = False) -> str:
    with pytest.raises(InputError) as error:
        read_file(str(path), stand_ins=stand_ins)
    return str(error.value)


@pytest.mark.parametrize("folder", ["", "w/", "a/b/c/", "w\\", "a\\b\\"])
def test_an_archive_that_was_packed_anew(folder: str, tmp_path: Path) -> None:
    write_zip(tmp_path / "w", W, {"0": NUMBERS.tobytes()}, folder)
    with zipfile.ZipFile(tmp_path / "w", "a") as archive:  # as TorchScript's extra files
        archive.writestr(f"{folder}extra/more/data.pkl", b"")
    assert read_file(str(tmp_path / "w")).tolist() == [0, 1, 2, 3]


def test_archives_of_other_things(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("some/w.pth", b"a")
    assert "no checkpoint of PyTorch: it has no file data.pkl (first in it: 'some/w.pth')" in (
        refused(tmp_path / "w")
    )
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("a/data.pkl", HEAD + b"N.")
        archive.writestr("b/data.pkl", HEAD + b"N.")
    assert "it has 2 files data.pkl (first in it: 'a/data.pkl', 'b/data.pkl')" in (
        refused(tmp_path / "w")
    )


def test_a_storage_of_another_size_than_its_record(tmp_path: Path) -> None:
    for size in (12, 20):
        write_zip(tmp_path / "w", W, {"0": bytes(size)})
        assert f"(the storage 0 has {size} bytes, not 16)" in refused(tmp_path / "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_storage_with_two_sizes(legacy: bool, tmp_path: Path) -> None:
    program = b"(" + W + tensor(storage("0", 2), 0, (2,), (1,)) + b"t"
    if legacy:
        write_legacy(tmp_path / "w", program, {"0": (4, bytes(16))})
    else:
        write_zip(tmp_path / "w", program, {"0": bytes(16)})
    assert "the storage 0 has two sizes" in refused(tmp_path / "w")


def test_storages_larger_than_their_file(tmp_path: Path) -> None:
    large = tensor(storage("0", 2**38), 0, (4,), (1,))
    write_legacy(tmp_path / "w", large, {"0": (2**38, bytes(16))})
    assert "the storage 0 is larger than the file" in refused(tmp_path / "w")
    # Each is smaller than the file, and all together are not.
    many = b"(" + b"".join(tensor(storage(str(i), 40), 0, (4,), (1,)) for i in range(20)) + b"t"
    write_legacy(tmp_path / "w", many, {str(i): (40, b"") for i in range(20)})
    assert "is larger than the file" in refused(tmp_path / "w")


def test_records_larger_than_they_can_be(tmp_path: Path) -> None:
    write_zip(tmp_path / "w", W, {"0": bytes(16)})
    content = bytearray((tmp_path / "w").read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
    (tmp_path / "w").write_bytes(content)
    assert "a record is larger than it can be" in refused(tmp_path / "w")
    content[entry + 20 : entry + 28] = (2**31).to_bytes(4, "little") * 2
    (tmp_path / "w").write_bytes(content)
    assert "its records overlap" in refused(tmp_path / "w")


def test_a_record_that_no_tensor_needs_may_be_damaged(tmp_path: Path) -> None:
    write_zip(tmp_path / "w", W, {"0": NUMBERS.tobytes(), "1": b"nobody has this"})
    content = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(content.replace(b"nobody has this", b"somebody had it"))
    assert read_file(str(tmp_path / "w")).tolist() == [0, 1, 2, 3]
    (tmp_path / "w").write_bytes(content.replace(NUMBERS.tobytes(), NUMBERS[::-1].tobytes()))
    assert "Bad CRC-32" in refused(tmp_path / "w")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_legacy_files_of_each_protocol(protocol: int, tmp_path: Path) -> None:
    torch.save(
        {"w": torch.arange(3.0)}, tmp_path / "w",
        _use_new_zipfile_serialization=False, pickle_protocol=protocol,
    )  # fmt: skip
    assert read_file(str(tmp_path / "w"))["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["QInt8Storage", "QInt32Storage"])
def test_legacy_files_with_quantised_tensors_beside_the_weights(kind: str, tmp_path: Path) -> None:
    numbers = storage("-1", 3, f"torch.{kind}")  # before the weights in the file
    quantised = call("torch._utils._rebuild_qtensor", numbers, plain((3,)))
    program = b"}(" + text("model") + W + text("other") + quantised + b"u"
    size = 3 if kind == "QInt8Storage" else 12
    storages = {"-1": (3, b"\xff" * size), "0": (4, NUMBERS.tobytes())}
    write_legacy(tmp_path / "w", program, storages)
    found = read_file(str(tmp_path / "w"), stand_ins=True)
    assert found["model"].tolist() == [0, 1, 2, 3] and isinstance(found["other"], StandIn)
    assert "refers to torch._utils._rebuild_qtensor" in refused(tmp_path / "w")
    write_legacy(tmp_path / "w", program.replace(kind.encode(), b"StrangeStorage"), storages)
    assert "the storage '-1' has an unknown size" in refused(tmp_path / "w", stand_ins=True)


def test_a_large_tensor_is_held_once(tmp_path: Path) -> None:
    """PyTorch's own memory is not traced; the copies that Python makes of it are."""
    torch.save({"w": torch.ones(5 * 2**20)}, tmp_path / "w")
    tracemalloc.start()
    try:
        assert read_file(str(tmp_path / "w"))["w"].sum() == 5 * 2**20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < os.path.getsize(tmp_path / "w") * 0.75


def test_arrays_of_dates_and_structures(tmp_path: Path) -> None:
    for array, name in (
        (np.array(["2024-01-01"], "M8[D]"), "numpy.datetime64"),
        (np.array([1], "m8[s]"), "numpy.timedelta64"),
        (np.zeros(2, [("a", "f4")]), "numpy.void"),
    ):
        for protocol in (2, 5):
            torch.save({"w": torch.ones(1), "a": array}, tmp_path / "w", pickle_protocol=protocol)
            assert f"it refers to {name}, which" in refused(tmp_path / "w")
            assert isinstance(read_file(str(tmp_path / "w"), stand_ins=True)["a"], StandIn)


def test_a_deep_chain_of_pickled_modules() -> None:
    def module(inner: dict) -> StandIn:
        made = stand_in_class("a.Module")()
        made.state = {"_parameters": {"w": torch.ones(1)}, "_buffers": {}, "_modules": inner}
        return made

    chain = module({})
    for _ in range(3000):
        chain = module({"b": module({}), "a": chain})
    found = list(entries(chain))
    assert len(found) == 6001 and found[:3] == ["w", "b.w", "a.w"]
    assert found[-1] == "a." * 3000 + "w"
    chain.state["_modules"]["itself"] = chain
    assert len(entries(chain)) == 6001


def test_what_was_read_can_be_saved_again(tmp_path: Path) -> None:
    """The versions of modules, beside a state dict, are of no class of ours, either."""
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm2d(3)).state_dict()
    torch.save({"model": state}, tmp_path / "first.pth")
    torch.save(read_file(str(tmp_path / "first.pth")), tmp_path / "second.pth")
    again = torch.load(tmp_path / "second.pth", weights_only=True)["model"]
    assert again._metadata == state._metadata and again.keys() == state.keys()
