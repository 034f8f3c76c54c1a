"""Where the kernels of "native" come from, and what happens where they cannot be had."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import signal
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
    """As in a new process of a user with an empty cache, whose package was built without them."""
    sources = tmp_path / "sources"
    shutil.copytree(native_build.SOURCES, sources, ignore=shutil.ignore_patterns("*.so"))
    monkeypatch.setattr(native_build, "SOURCES", sources)
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
    assert_banded_with_one_line(log, f"{tmp_path / 'cache' / 'lambda_det'} cannot be written")


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
        [sys.executable, "-c", PROCESS], env=environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("copying_compiler")
def test_one_process_compiles_and_all_load(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = start(cache), start(cache)
    said = [process.communicate()[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum(text.count("compiling the kernels") for text in said) == 1, said
    (kernels,) = cache.rglob("*.so")
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
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    after = start(tmp_path)
    assert "compiling the kernels" in after.communicate(timeout=300)[0]
    assert after.returncode == 0


@pytest.mark.usefixtures("copying_compiler", "as_new")
def test_built_ahead(capsys, tmp_path: Path, monkeypatch) -> None:
    """As the command says, also where they are already; a package that holds them loads them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sources" / "native_0123456789abcdef.so").touch()  # of another release
    calls = []
    for target in (["--output", "sources"], [], []):
        assert build_native.main(target) == 0
        calls.append((tmp_path / "compiler.calls").read_text().count("."))
    assert calls == [calls[0], 2 * calls[0], 3 * calls[0]]
    in_package, in_cache, again = map(Path, capsys.readouterr().out.splitlines())
    assert in_package.parent == tmp_path / "sources" and in_cache == again
    assert (tmp_path / "sources" / "entry.cpp").exists()
    assert not (tmp_path / "sources" / "native_0123456789abcdef.so").exists()
    assert in_cache.parent == tmp_path / "cache" / "lambda_det"
    assert sorted(path.name for path in in_cache.parent.iterdir()) == ["native.lock", again.name]
    in_cache.unlink()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert native_build.library()._name == str(in_package)


@pytest.mark.usefixtures("as_new")
def test_arguments_of_the_compiler_make_another_library(monkeypatch) -> None:
    names = set()
    for command in ("", "g++", "clang++", "g++ -O3", "g++ -O3 -march=native"):
        monkeypatch.setenv("CXX", command)
        names.add(native_build._file_name())
    assert len(names) == 3


@pytest.mark.usefixtures("copying_compiler", "as_new")
def test_what_does_not_need_this_compiler_is_found(monkeypatch, tmp_path) -> None:
    built = native_build.build()
    monkeypatch.setenv("CXX", "no-such-compiler -O3")  # of this one's arguments there is none
    assert native_build.build() == built
    broken = tmp_path / "sources" / native_build._file_name(())
    broken.write_bytes(b"of another machine")  # in the package: the cache is looked at, too
    assert native_build.library()._name == str(built)


@pytest.mark.usefixtures("as_new")
def test_a_compiler_that_is_no_command(log, monkeypatch) -> None:
    monkeypatch.setenv("CXX", 'g++ "-O2')
    assert_banded_with_one_line(log, "CXX='g++ \"-O2' is no command")


@pytest.mark.usefixtures("copying_compiler", "as_new")
def test_a_library_that_cannot_be_loaded(log, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KERNELS", __file__)
    assert_banded_with_one_line(log, "its library cannot be loaded: ", "invalid ELF header")


@pytest.mark.usefixtures("as_new")
def test_auto_says_once_why_it_is_slow(log, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(3):
        position_lambda(*inputs())
    (line,) = [r.getMessage() for r in log.records if r.levelno >= logging.WARNING]
    assert "no-such-compiler" in line and "'conv' is used instead" in line


@pytest.mark.usefixtures("as_new")
def test_what_cannot_be_built_ahead(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "exit 0"))
    taken = tmp_path / "taken"
    taken.touch()
    assert build_native.main(["--output", str(taken)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--output {taken}: the back end 'native' was not built: {taken} cannot be" in line
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build_native.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it needs a C++ compiler" in line
