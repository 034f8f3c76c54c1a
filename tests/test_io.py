"""Reading and atomic writing of files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from lambda_det.errors import InputError
from lambda_det.io import TEMPORARY, new_folder, read_json, write_atomically, write_bytes


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(b"old", str(path))

    def fails(file) -> None:
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"^W: cannot be written \(No space left on device\)$"):
        write_atomically(str(path), fails, subject="W:")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]


def test_the_reason_of_torch_save_is_that_of_the_disk(tmp_path: Path) -> None:
    """torch.save turns the OSError of a write into a RuntimeError that does not state it."""
    with pytest.raises(InputError) as error:
        write_atomically(str(tmp_path / "a.pth"), _as_torch_save_fails)
    assert str(error.value).endswith("a.pth cannot be written (No space left on device)")
    assert not list(tmp_path.glob(f"*{TEMPORARY}"))


def _as_torch_save_fails(file) -> None:
    try:
        with open("/dev/full", "wb", buffering=0) as full:
            file.raw.write = full.write
            full.write(b"x")
    except OSError as error:
        file.raw.error = error
        raise RuntimeError("unexpected pos 64 vs 0") from error


def test_json_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"annotation file .*a.json cannot be read: No such file"):
        read_json(str(path), called="annotation file")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"a.json is not valid JSON: Expecting"):
        read_json(str(path))


def test_a_new_folder_is_complete_or_does_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "a"
    with pytest.raises(KeyboardInterrupt), new_folder(str(root)) as folder:
        Path(folder, "half").touch()
        raise KeyboardInterrupt
    assert not list(root.parent.iterdir())
    with new_folder(str(root)) as folder:
        Path(folder, "whole").touch()
        assert not root.exists()
    assert [path.name for path in root.iterdir()] == ["whole"]
    assert list(root.parent.iterdir()) == [root] and root.stat().st_mode & 0o777 == 0o755
