"""Reading and atomic writing of files."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from lambda_det.errors import InputError
from lambda_det.io import (
    TEMPORARY,
    cache_path,
    new_folder,
    read_cache,
    read_json,
    write_atomically,
    write_bytes,
    write_cache,
)


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


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_path("a") == "/cache/lambda_det/a"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        monkeypatch.setenv("HOME", "")  # no home: nothing is kept, least of all in /.cache
        assert cache_path("a") == ""
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_path("a") == ""
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_path("a") == "/home/someone/.cache/lambda_det/a"


def test_a_pipe_is_no_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "a.json")
    os.mkfifo(path)
    found = []
    reader = threading.Thread(target=lambda: found.append(read_cache(path)), daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert found == [None]  # and does not wait
    write_cache({"a": 1}, path)
    assert read_cache(path) == {"a": 1} and os.path.isfile(path)
    Path(path).write_text("{", encoding="utf-8")
    assert read_cache(path) is None


def test_a_cache_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of two machines, which may have the same number, take names of their own."""
    written, replace = [], os.replace

    def noted(source: str, target: str) -> None:
        if target == str(path):
            written.append(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    path = tmp_path / "a.json"
    for _ in range(2):
        write_cache([], str(path))
    assert len({*written}) == 2 and [each.name for each in tmp_path.iterdir()] == ["a.json"]
    path.unlink()
    path.mkdir()  # cannot be replaced
    write_cache([], str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
