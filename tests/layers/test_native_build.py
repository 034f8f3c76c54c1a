"""Where the kernels of "native" come from, and what happens where they cannot be had."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lambda_det.commands import build_native
from lambda_det.layers import native_build, native_lambda, position_lambda


@pytest.fixture
def as_new(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a new process of a user with an empty cache."""
    looked_for = functools.cache(native_build._library.__wrapped__)
    monkeypatch.setattr(native_build, "_library", looked_for)
    monkeypatch.setattr(native_lambda, "_logged", set())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def inputs() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 1, 3, 3)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return str(path)


def assert_banded_with_one_line(log: pytest.LogCaptureFixture, *words: str) -> None:
    args = inputs()
    for _ in range(3):
        output = position_lambda(*args, backend="native")
        assert torch.equal(output, position_lambda(*args, backend="banded"))
    lines = [r.getMessage() for r in log.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1, lines
    assert "\n" not in lines[0] and "'banded' is used instead" in lines[0]
    assert all(word in lines[0] for word in words), lines[0]


@pytest.mark.usefixtures("as_new")
def test_without_a_compiler(log, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert_banded_with_one_line(log, "it needs a C++ compiler", "g++")


@pytest.mark.usefixtures("as_new")
def test_a_compiler_that_is_named_and_not_there(log, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    assert_banded_with_one_line(log, "CXX=no-such-compiler is not on the PATH")


@pytest.mark.usefixtures("as_new")
def test_a_compiler_that_fails(log, monkeypatch, tmp_path) -> None:
    says = 'echo "$@" >> $0.calls; echo "x.cpp: error: no" >&2; exit 3'
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, says))
    assert_banded_with_one_line(log, "fails with status 3: x.cpp: error: no")
    calls = (tmp_path / "compiler.calls").read_text().splitlines()
    assert len(calls) == 1  # after a failure it is not tried again
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.mark.usefixtures("as_new")
def test_a_cache_that_cannot_be_written(log, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "exit 0"))
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert_banded_with_one_line(log, "its folder cannot be written", str(tmp_path / "cache"))


@pytest.mark.usefixtures("as_new")
@pytest.mark.parametrize("home", ["nowhere", ""])
def test_a_user_without_a_home(home: str, log, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "exit 0"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", home)
    assert_banded_with_one_line(log, "XDG_CACHE_HOME")


@pytest.mark.usefixtures("as_new")
def test_shapes_alone_need_no_kernels(log, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    query, value, embedding = (tensor.to("meta") for tensor in inputs())
    output = position_lambda(query, value.requires_grad_(), embedding, backend="native")
    output.sum().backward()
    assert output.shape == (1, 2, 2, 4, 5) and value.grad.shape == value.shape
    assert not log.records


@pytest.mark.slow
@pytest.mark.usefixtures("as_new")
def test_a_compiled_function_without_a_compiler(log, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    function = functools.partial(position_lambda, backend="native")
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    args = inputs()
    assert torch.equal(compiled(*args), position_lambda(*args, backend="banded"))
    assert "no-such-compiler" in "\n".join(record.getMessage() for record in log.records)


# It "compiles" by a copy of the kernels of this process, and waits before that if told so.
COPIES = """
target=
for word in "$@"; do
    [ "$last" = -o ] && target=$word
    last=$word
done
case "$*" in
    *-shared*) cp "$KERNELS" "$target" ;;
    *) echo . >> "$0.calls"; [ -z "$WAIT" ] || sleep 60; touch "$target" ;;
esac
"""
PROCESS = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from lambda_det.layers import native_build
native_build.library()
"""


@pytest.fixture
def copying_compiler(native_kernels: None, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, COPIES))
    monkeypatch.setenv("KERNELS", native_build.library()._name)


def start(cache: Path, **variables: str) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)} | variables
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.usefixtures("copying_compiler")
def test_one_process_compiles_and_all_load(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = start(cache), start(cache)
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum(text.count("compiling the kernels") for text in said) == 1, said
    (kernels,) = (file for file in cache.rglob("*") if file.is_file())
    kernels.write_bytes(b"damaged")  # it is compiled again
    again = start(cache)
    assert "compiling the kernels" in again.communicate()[0] and again.returncode == 0
    without_a_compiler = start(cache, PATH="", CXX="")
    assert without_a_compiler.communicate()[0] == "" and without_a_compiler.returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("copying_compiler")
def test_a_killed_process_keeps_no_lock(tmp_path: Path) -> None:
    killed = start(tmp_path, WAIT="1")
    killed.stdout.readline()  # it compiles, and holds the lock
    killed.kill()
    killed.communicate()
    after = start(tmp_path)
    assert "compiling the kernels" in after.communicate(timeout=300)[0]
    assert after.returncode == 0


@pytest.mark.usefixtures("copying_compiler", "as_new")
def test_built_ahead(capsys, tmp_path: Path, monkeypatch) -> None:
    """As the command says, also where they are already; a package that holds them loads them."""
    for target in (["--output", str(tmp_path / "native")], [], []):
        assert build_native.main(target) == 0
    in_folder, in_cache, again = map(Path, capsys.readouterr().out.splitlines())
    assert in_folder.parent == tmp_path / "native" and in_cache == again
    assert in_cache.parent == tmp_path / "cache" / "lambda_det"
    assert len((tmp_path / "compiler.calls").read_text().split()) % 3 == 0
    in_cache.unlink()
    for source in native_build.SOURCES.glob("*.[ch]*"):
        shutil.copy(source, tmp_path / "native")
    monkeypatch.setattr(native_build, "SOURCES", tmp_path / "native")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native_build.library()._name == str(in_folder)


@pytest.mark.usefixtures("as_new")
def test_what_cannot_be_built_ahead(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "exit 0"))
    taken = tmp_path / "taken"
    taken.touch()
    assert build_native.main(["--output", str(taken)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: --output {taken}: the back end 'native' was not built: its fold"
    )
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build_native.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it needs a C++ compiler" in line
