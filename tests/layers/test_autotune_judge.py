"""What the judge's own numbers, the precision and a careless back end do to a measurement."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from autotune_helpers import chosen, inputs
from torch import Tensor

from lambda_det.layers import LambdaLayer, autotune, choice, measurement, position_lambda
from lambda_det.layers.autotune import TRIES, environment_of
from lambda_det.layers.choices import CHOICES
from lambda_det.layers.measurement import tolerance_of
from lambda_det.layers.position_lambda import BACKENDS
from lambda_det.layers.precision import tf32_is_allowed

# ---- a judge that is none ----


@pytest.mark.parametrize("least", [0, 10**9])
def test_a_kind_whose_numbers_say_nothing_is_soon_left_to_the_rule(
    clock, monkeypatch, log, least
) -> None:
    monkeypatch.setattr(choice, "LEAST_PRODUCTS", least)
    query, value, embedding = inputs()
    compared = []
    monkeypatch.setattr(
        measurement, "_compared", lambda *a, f=measurement._compared: compared.append(1) or f(*a)
    )
    for factor in (0.0, math.nan, math.inf, 0.0, 1.0):
        position_lambda(query, value * factor, embedding)
    rule = "conv" if least else "banded"
    assert len(compared) == TRIES and chosen() == [rule] and clock.asked == []
    (line,) = [r.getMessage() for r in log.records]
    assert f"{rule!r} for training qve" in line and "by the rule: in 3 calls" in line
    CHOICES.clear()  # as a later process, which looks again
    position_lambda(query, value, embedding)
    assert chosen() == ["banded"] and clock.asked


class GradientOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * math.inf


def test_a_gradient_of_the_judge_that_is_not_finite_blames_nobody(clock, monkeypatch, log) -> None:
    monkeypatch.setitem(BACKENDS, "conv", lambda *t, f=BACKENDS["conv"]: GradientOf.apply(f(*t)))
    assert autotune.measured_backend(*inputs(), BACKENDS) is None
    assert chosen() == [] and clock.asked == [] and log.text == ""


def test_a_back_end_that_writes_its_inputs_changes_nothing_outside(clock, monkeypatch) -> None:
    def careless(*tensors: Tensor) -> Tensor:
        output = BACKENDS["conv"](*tensors)
        for tensor in tensors:
            tensor.data.zero_()
        return output

    monkeypatch.setitem(BACKENDS, "banded", careless)
    clock.seconds["conv"] = 0.5
    tensors = inputs(gradient=False)
    position_lambda(*tensors)
    assert chosen() == ["conv"]
    assert all(torch.equal(t, twin) for t, twin in zip(tensors, inputs(), strict=True))


# ---- the precision of a GPU ----


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand in for ``torch.backends``, whose flags other tests of this process read."""
    flags = SimpleNamespace(
        cuda=SimpleNamespace(matmul=SimpleNamespace(allow_tf32=False)),
        cudnn=SimpleNamespace(allow_tf32=False, benchmark=False, deterministic=False),
    )
    monkeypatch.setattr(torch.backends, "cuda", flags.cuda)
    monkeypatch.setattr(torch.backends, "cudnn", flags.cudnn)
    return flags


def on_gpu(dtype: torch.dtype) -> list[SimpleNamespace]:
    return [SimpleNamespace(dtype=dtype, is_cuda=True)] * 3


@pytest.mark.parametrize("part", ["cuda.matmul", "cudnn"])
def test_the_tolerance_of_tf32_needs_tf32(flags, part) -> None:
    exact = {d: tolerance_of(*on_gpu(d)) for d in measurement.TOLERANCES}
    assert exact == measurement.TOLERANCES
    (flags.cudnn if part == "cudnn" else flags.cuda.matmul).allow_tf32 = True
    found = {d: tolerance_of(*on_gpu(d)) for d in measurement.TOLERANCES}
    assert found == exact | {torch.float32: measurement.TF32_TOLERANCE}
    assert tolerance_of(*inputs()) == measurement.TOLERANCES[torch.float32]  # on a CPU


SETTINGS = ("cudnn.benchmark", "cudnn.deterministic", "cudnn.allow_tf32", "cuda.matmul.allow_tf32")


def test_the_settings_of_a_gpu_belong_to_the_environment(flags, monkeypatch) -> None:
    monkeypatch.setattr(autotune, "_machine", lambda device: "a GPU, CUDA 13.0, triton 3.7")

    def text() -> str:
        return environment_of(torch.device("cuda", 0))

    texts = [text()]
    for name in SETTINGS:
        *path, last = name.split(".")
        node = flags.cudnn if path == ["cudnn"] else flags.cuda.matmul
        setattr(node, last, True)
        texts.append(text())
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    texts.append(text())
    assert len({*texts}) == len(SETTINGS) + 2


class Newer:
    """Flags that were set in PyTorch 2.9's way: the earlier ones can be read no more."""

    def __init__(self, precision: str) -> None:
        self.fp32_precision = precision

    @property
    def allow_tf32(self) -> bool:
        raise RuntimeError("you have used mix of the legacy and new APIs")


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_newer_flags_of_pytorch(flags, monkeypatch, precision) -> None:
    flags.cuda.matmul = Newer(precision)
    assert tf32_is_allowed() == (precision == "tf32", False)
    monkeypatch.setattr(torch.backends, "cudnn", Newer("none"))
    torch.backends.cudnn.conv = Newer(precision)
    assert tf32_is_allowed() == (precision == "tf32",) * 2


# ---- an earlier version's layer ----


def test_a_layer_that_an_earlier_version_pickled(clock) -> None:
    layer = LambdaLayer(8, query_depth=3, num_heads=2, scope=5)
    del layer.__dict__["autotune"]
    layer(torch.randn(1, 8, 6, 6))
    assert chosen() == ["banded"]
