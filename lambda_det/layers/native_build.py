"""Compiles the kernels in ``native/`` once, on first use, into the user's cache.

A wheel can bring them along, compiled for one release of PyTorch (``lambda_det build_native``).

They are plain C functions, called through :mod:`ctypes`. Of PyTorch they use the threads alone
(``at::parallel_for``), so they compile in seconds, with any compiler for C++17 that has the vector
types of GCC and Clang.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lambda_det.io import cache_path

SOURCES = Path(__file__).with_name("native")
_TORCH = Path(torch.__file__).parent
_logger = logging.getLogger(__name__)

_FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w"]
_ENTRY_FLAGS = [
    "-fopenmp",
    f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}",
    f"-I{_TORCH / 'include'}",
]
_LINK_FLAGS = ["-shared", "-fopenmp", f"-L{_TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]

# Each kernel is compiled for each of these; which one runs is chosen when it is called.
# Name -> (bytes of a vector, the compiler's flags).
_BASELINE: dict[str, tuple[int, list[str]]] = {"baseline": (16, [])}
_X86 = {"avx2": (32, ["-mavx2", "-mfma"]), "avx512": (64, ["-mavx512f", "-mfma"])}
_INSTRUCTION_SETS = {"x86_64": _BASELINE | _X86}


class BuildError(Exception):
    """The kernels are not there and cannot be compiled; the text says why, in one clause."""


def library() -> ctypes.CDLL:
    """The compiled kernels. A user's first call compiles them; later processes load them.

    Raises:
        BuildError: there is no compiler, it fails, or the cache cannot be written.
    """
    found = _library()
    if isinstance(found, str):
        raise BuildError(found)
    return found


@functools.cache  # a failure is not tried again
def _library() -> ctypes.CDLL | str:
    """The kernels, or why they are not there."""
    try:
        for name in dict.fromkeys([_file_name(), _file_name(())]):  # in a wheel built with them
            if _can_be_loaded(SOURCES / name):
                return _loaded(SOURCES / name)
        return _loaded(build())
    except BuildError as error:
        return str(error)


def build(folder: Path | None = None, *, anew: bool = False) -> Path:
    """Compile the kernels.

    Args:
        folder: where the library is written; None = the user's cache.
        anew: whether to compile also where they are already and can be loaded.

    Returns:
        The path of the library.

    Raises:
        BuildError: there is no compiler, it fails, or the folder cannot be written.
    """
    path = _cached() if folder is None else folder.resolve() / _file_name()
    if not anew and _can_be_loaded(path):
        return path
    try:
        compiler = compiler_command()
    except BuildError:
        other = path.with_name(_file_name(()))  # what another machine has compiled, if no argument
        if not anew and _can_be_loaded(other):  # of this one's compiler is asked for
            return other
        raise
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name("native.lock")):
            if anew or not _can_be_loaded(path):  # else another process has compiled it meanwhile
                _logger.info("compiling the kernels of back end 'native' once, into %s", path)
                _build(compiler, path)
    except OSError as error:
        raise BuildError(f"{path.parent} cannot be written: {error}") from error
    return path


def _can_be_loaded(path: Path) -> bool:
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"its library cannot be loaded: {error}") from error


def compile_kernels(compiler: list[str], folder: Path, flags: list[str] = _FLAGS) -> list[Path]:
    """Compile the kernels for every instruction set, several at a time, into object files.

    Raises:
        BuildError: the compiler fails.
    """
    sets = _INSTRUCTION_SETS.get(platform.machine(), _BASELINE)
    commands, objects = [], []
    for source in ("forward", "backward"):
        for name, (size, more) in sets.items():
            objects.append(folder / f"{source}_{name}.o")
            defined = [f"-DLAMBDA_DET_BYTES={size}", f"-DLAMBDA_DET_ISA={name}"]
            commands.append([*compiler, *flags, *more, *defined, *_to(objects[-1], source)])
    _run_all(commands)
    return objects


def _build(compiler: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lambda_det_") as folder:
        entry = Path(folder) / "entry.o"
        _run_all([[*compiler, *_FLAGS, *_ENTRY_FLAGS, *_to(entry, "entry")]])
        objects = [str(o) for o in (entry, *compile_kernels(compiler, Path(folder)))]
        # On the disk before its renaming: a part of a library would end the process that loads it.
        # Its own name: the processes of several machines may write at once.
        handle, unfinished = tempfile.mkstemp(prefix="native_", suffix=".tmp", dir=path.parent)
        os.close(handle)
        try:
            _run_all([[*compiler, *objects, *_LINK_FLAGS, "-o", unfinished]])
            os.chmod(unfinished, 0o755)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)


def _to(target: Path, source: str) -> list[str]:
    return ["-c", str(SOURCES / f"{source}.cpp"), "-o", str(target)]


def _run_all(commands: list[list[str]]) -> None:
    """Run the commands, as many at a time as there are processors."""
    waiting, running = list(commands), []
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            running.append(
                subprocess.Popen(
                    waiting.pop(0),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
            )
        first = running.pop(0)
        _, text = first.communicate()
        if first.returncode:
            for other in running:
                other.kill()
                other.communicate()
            lines = [line for line in text.splitlines() if line.strip()] or [""]
            line = next((line for line in lines if "error" in line), lines[-1])
            raise BuildError(
                f"{first.args[0]} fails with status {first.returncode}: {line.strip()}"
            )


def compiler_command() -> list[str]:
    """The command of the compiler: what the variable CXX names, or the first that is there.

    Raises:
        BuildError: there is none.
    """
    named = _named_compiler()
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    wanted = f"CXX={named[0]} is not" if named else "none of c++, g++ and clang++ is"
    raise BuildError(f"it needs a C++ compiler, and {wanted} on the PATH")


def _named_compiler() -> list[str]:
    """What the variable CXX says: a command with its arguments, or nothing."""
    text = os.environ.get("CXX", "")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BuildError(f"CXX={text!r} is no command: {error}") from error


def _file_name(arguments: Sequence[str] | None = None) -> str:
    """The name of the library, by what it is made of.

    The compiler is not in it, but its arguments are (None = those in the variable CXX): what one
    machine has compiled also serves those that share its cache and have no compiler.
    """
    if arguments is None:
        arguments = [word for word in _named_compiler() if word.startswith("-")]
    flags = [*arguments, *_FLAGS, *_ENTRY_FLAGS, *_LINK_FLAGS]
    parts = [flag for flag in flags if not flag.startswith(("-I", "-L"))]
    parts += [torch.__version__, platform.machine(), str(_INSTRUCTION_SETS)]
    parts += [source.read_text(encoding="utf-8") for source in sorted(SOURCES.glob("*.[ch]*"))]
    return f"native_{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"


def _cached() -> Path:
    path = cache_path(_file_name())
    if not path:
        raise BuildError(
            "it needs a folder for its cache: the user has no home, set XDG_CACHE_HOME"
        )
    return Path(path)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock of a file. It ends with its process, however that
    ends. Where files cannot be locked, each process compiles for itself."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl  # not on Windows, where the other back ends run

            file = stack.enter_context(open(path, "a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
