"""What this processor can do at most, beside which the benchmark of layers puts its numbers."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from lambda_det.layers import native_build

_SIDE = 1024
_ROUNDS = 4_000_000  # some ten milliseconds
_CHAINS = 12  # of multiply_adds.cpp
_TRIES = 7
_VECTORS = {"AVX512": 64, "AVX2": 32}
"""PyTorch's name of the instruction set -> bytes of a vector."""


def measured_peaks() -> dict[str, float]:
    """The highest rates that were seen now, with PyTorch's number of threads, in float32.

    Returns:
        ``sgemm_gflops``: of a product of two 1024 x 1024 matrices (``torch.mm``), and
        ``fma_gflops``: of multiply-adds in registers alone, if there is a compiler. A multiply-add
        is two operations.
    """
    a, b = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    torch.mm(a, b)
    peaks = {"sgemm_gflops": 2 * _SIDE**3 / _shortest(lambda: torch.mm(a, b)) / 1e9}
    try:
        loop, numbers = _multiply_adds()
    except native_build.BuildError:
        return peaks
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:

        def work(_: int) -> None:
            loop(ctypes.c_long(_ROUNDS), ctypes.byref(ctypes.c_float(0)))

        seconds = _shortest(lambda: list(pool.map(work, range(threads))))
    peaks["fma_gflops"] = 2 * _CHAINS * numbers * _ROUNDS * threads / seconds / 1e9
    return peaks


def _shortest(call) -> float:
    times = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@functools.cache
def _multiply_adds() -> tuple[ctypes._CFuncPtr, int]:
    """The loop, and the numbers of a vector."""
    size = _VECTORS.get(torch.backends.cpu.get_cpu_capability(), 16)
    source = Path(__file__).with_name("multiply_adds.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "multiply_adds.so"
        command = [*native_build.compiler_command(), "-O2", "-march=native", "-ffp-contract=fast"]
        command += ["-funroll-loops", f"-DLAMBDA_DET_BYTES={size}", "-shared", "-fPIC"]
        done = subprocess.run(
            [*command, source, "-o", library], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise native_build.BuildError(done.stderr)
        return ctypes.CDLL(str(library)).multiply_adds, size // 4
