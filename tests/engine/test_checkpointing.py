"""Checkpoints: whole or not there, the last whole one is found, a number of them is kept."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.errors import InputError


class Counter:
    """A state of one number."""

    def __init__(self) -> None:
        self.number = 0

    def state_dict(self) -> dict:
        return {"number": self.number}

    def load_state_dict(self, state: dict) -> None:
        self.number = state["number"]


@pytest.fixture
def made(tmp_path):
    """A checkpointer, its counter, and a function that saves an iteration."""
    counter = Counter()
    checkpointer = RunCheckpointer(nn.Linear(64, 64), str(tmp_path), trainer=counter)

    def save(number: int, name: str = "") -> None:
        counter.number = number
        nn.init.constant_(checkpointer.model.weight, number)
        checkpointer.save(name or f"model_{number:07d}", iteration=number)

    return checkpointer, counter, save


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(made, tmp_path):
    checkpointer, counter, save = made
    assert checkpointer.resume() is None
    save(3)
    save(5)
    counter.number = 0
    nn.init.zeros_(checkpointer.model.weight)
    assert checkpointer.resume() == str(tmp_path / "model_0000005.pth")
    assert counter.number == 5 and (checkpointer.model.weight == 5).all()
    assert names(tmp_path) == ["last_checkpoint", "model_0000003.pth", "model_0000005.pth"]


@pytest.mark.skipif(
    not hasattr(torch.serialization, "set_crc32_options"), reason="PyTorch always sums"
)
def test_files_without_sums_are_whole(made):
    """As PyTorch writes them where it is told to."""
    checkpointer, counter, save = made
    torch.serialization.set_crc32_options(False)
    try:
        save(3)
    finally:
        torch.serialization.set_crc32_options(True)
    counter.number = 0
    assert checkpointer.resume() is not None and counter.number == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def hole(path: Path) -> None:
    """A power cut can leave zeros where the blocks were never written."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x00\x00\xa0\x40" * 8) + 64  # in the weights, which are all 5
    data[at : at + 4096] = bytes(4096)
    path.write_bytes(data)


def no_training(path: Path) -> None:
    torch.save({"model": {}}, path)


def code(path: Path) -> None:
    """A checkpoint that would call something when it is unpickled."""

    class Call:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "ran"),)

    torch.save({"model": {}, "trainer": Call()}, path)


@pytest.mark.parametrize("damage", [cut, empty, hole, no_training, code, Path.unlink])
def test_the_last_whole_one_is_taken(made, tmp_path, damage, caplog):
    checkpointer, counter, save = made
    for number in (1, 3, 5):
        save(number)
    save(9)  # of an earlier, longer run in this folder
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    damage(tmp_path / "model_0000005.pth")
    with caplog.at_level("WARNING", "lambda_det"):
        assert checkpointer.resume() == str(tmp_path / "model_0000003.pth")
    assert counter.number == 3 and not (tmp_path / "ran").exists()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("--resume: model_0000005.pth cannot be read (")
    assert "going on from model_0000003.pth, the last whole checkpoint" in line and "\n" not in line
    cut(tmp_path / "model_0000003.pth")
    assert checkpointer.resume() == str(tmp_path / "model_0000001.pth")


@pytest.mark.parametrize("pointer", [b"", b"\0" * 17, b"model_0000004.pth\n", b"../other.pth"])
def test_a_damaged_pointer(made, tmp_path, pointer):
    checkpointer, _, save = made
    save(1)
    save(3)
    (tmp_path / "last_checkpoint").write_bytes(pointer)
    assert checkpointer.resume() == str(tmp_path / "model_0000003.pth")


def test_nothing_whole_is_an_error_and_not_a_new_start(made, tmp_path):
    checkpointer, _, save = made
    save(1)
    save(3, "model_final")
    cut(tmp_path / "model_0000001.pth")
    cut(tmp_path / "model_final.pth")
    with pytest.raises(InputError, match=r"model_final.pth cannot be read \(.*remove .*last_ch"):
        checkpointer.resume()


def test_a_number_of_them_is_kept(made, tmp_path):
    checkpointer, _, save = made
    save(9)  # another run's, with a higher number
    checkpointer._keep = 2
    for number in (1, 3, 5, 7):
        save(number)
    save(7, "model_final")
    assert names(tmp_path) == [
        "last_checkpoint", "model_0000005.pth", "model_0000007.pth", "model_0000009.pth",
        "model_final.pth",
    ]  # fmt: skip


def test_a_full_disk_is_one_line_and_leaves_what_was_there(made, tmp_path):
    """The system refuses to let a file grow beyond 8 kB; the weights alone are 16 kB."""
    checkpointer, counter, save = made
    save(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(InputError) as error:
            save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    path = tmp_path / "model_0000003.pth"
    assert str(error.value) == f"OUTPUT_DIR: {path} cannot be written (File too large)"
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth"]
    assert checkpointer.resume() and counter.number == 1


def test_a_write_that_is_killed_leaves_the_old_file_and_its_rest_is_removed(made, tmp_path):
    checkpointer, _, save = made
    save(1)
    before = (tmp_path / "model_0000001.pth").read_bytes()
    child = os.fork()
    if not child:
        os.fsync = lambda handle: os.kill(os.getpid(), 9)
        checkpointer.save("model_0000001", iteration=2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert "model_0000001.pth.tmp" in names(tmp_path)
    (tmp_path / "other.tmp").touch()
    checkpointer.remove_leftovers()
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth", "other.tmp"]
