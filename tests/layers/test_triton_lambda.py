"""The "triton" back end: where it runs, where it falls back, and the log line."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lambda_det.layers import position_lambda, triton_lambda

CASES = Path(__file__).with_name("triton_cases.py")
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def run_cases(interpret: str) -> None:
    """In a process of its own: the interpreter is chosen once, when the kernels are defined."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


@pytest.mark.slow
@needs_triton
def test_kernels_in_the_interpreter() -> None:
    run_cases("1")


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_the_gpu() -> None:
    run_cases("0")


def inputs(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (1, 2, 3, 4, 5), (1, 1, 2, 4, 5), (3, 1, 3, 3)
    return tuple(torch.randn(s, generator=generator).to(device, dtype) for s in shapes)


@pytest.mark.skipif(triton_lambda.INTERPRETED, reason="the interpreter runs on the CPU")
def test_falls_back_to_conv_with_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    triton_lambda.log_fallback.cache_clear()
    args = inputs()
    for _ in range(3):
        assert torch.equal(
            position_lambda(*args, backend="triton"), position_lambda(*args, backend="conv")
        )
    lines = [r.getMessage() for r in caplog.records if r.name == triton_lambda.__name__]
    assert len(lines) == 1
    assert "'conv'" in lines[0] and "\n" not in lines[0]
    position_lambda(*inputs(torch.float64), backend="triton")  # another reason, another line
    lines = [r.getMessage() for r in caplog.records if r.name == triton_lambda.__name__]
    assert len(lines) == 2


@pytest.mark.slow
@pytest.mark.skipif(triton_lambda.INTERPRETED, reason="the interpreter runs on the CPU")
def test_fallback_compiles_into_one_graph() -> None:
    args = inputs()
    call = torch.compile(
        lambda *x: position_lambda(*x, backend="triton"), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(call(*args), position_lambda(*args, backend="conv"))


class CudaTensor:
    """What ``unsupported`` looks at, for a machine without a GPU."""

    is_cuda = True
    device = torch.device("cuda", 0)

    def __init__(self, dtype: torch.dtype = torch.bfloat16, numel: int = 1) -> None:
        self.dtype, self.size = dtype, numel

    def numel(self) -> int:
        return self.size


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_lambda, "INSTALLED", True)
    monkeypatch.setattr(triton_lambda, "INTERPRETED", False)
    monkeypatch.setattr(triton_lambda, "ON_ROCM", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_supported(gpu) -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        args = CudaTensor(dtype), CudaTensor(dtype), CudaTensor(torch.float32)
        assert triton_lambda.unsupported(*args) is None


def test_each_reason_to_fall_back(gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    good = CudaTensor()
    assert "float64" in triton_lambda.unsupported(good, CudaTensor(torch.float64), good)
    assert "float64" in triton_lambda.unsupported(good, good, CudaTensor(torch.float64))
    assert "empty" in triton_lambda.unsupported(CudaTensor(numel=0), good, good)
    assert "cpu" in triton_lambda.unsupported(*inputs())
    assert "meta" in triton_lambda.unsupported(*inputs(device="meta"))
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert "(7, 5)" in triton_lambda.unsupported(good, good, good)
    with monkeypatch.context() as patch:
        patch.setattr(triton_lambda, "ON_ROCM", True)
        assert "rocm" in triton_lambda.unsupported(good, good, good)
    with monkeypatch.context() as patch:
        patch.setattr(triton_lambda, "INSTALLED", False)
        assert "not installed" in triton_lambda.unsupported(good, good, good)
