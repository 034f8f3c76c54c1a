"""Where "auto" measures nothing, and that a training does not notice where it does."""

from __future__ import annotations

import weakref

import pytest
import torch
from autotune_helpers import CPU, chosen, inputs
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lambda_det.errors import InputError
from lambda_det.layers import LambdaLayer, autotune, position_lambda
from lambda_det.layers.autotune import VARIABLE, environment_of, kind_of
from lambda_det.layers.choices import CHOICES
from lambda_det.layers.measurement import BackEnd
from lambda_det.layers.position_lambda import BACKENDS

# ---- where nothing is measured ----


def test_a_variable_and_an_argument_switch_it_off(clock, monkeypatch) -> None:
    layer = LambdaLayer(8, query_depth=3, num_heads=2, scope=5, autotune=False)
    layer(torch.randn(1, 8, 6, 6))
    monkeypatch.setenv(VARIABLE, "0")
    position_lambda(*inputs())
    assert chosen() == [] and clock.asked == []
    monkeypatch.setenv(VARIABLE, "")
    layer.autotune = True
    layer(torch.randn(1, 8, 6, 6))
    assert chosen() == ["banded"]


def test_a_wrong_value_of_the_variable(new_user, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "off")
    with pytest.raises(InputError, match=r"^LAMBDA_DET_AUTOTUNE='off': expected 0 .* or 1$"):
        position_lambda(*inputs())


def _compiled(*tensors: Tensor) -> None:
    torch.compile(position_lambda, backend="eager", fullgraph=True)(*tensors)


def _exported(*tensors: Tensor) -> None:
    layer = LambdaLayer(8, query_depth=3, num_heads=2, scope=5).eval()
    torch.export.export(layer, (torch.randn(1, 8, 6, 6),))


def _traced(*tensors: Tensor) -> None:
    torch.jit.trace(position_lambda, tensors, check_trace=False)  # the check is a usual call


def _mapped(*tensors: Tensor) -> None:
    torch.func.vmap(position_lambda, in_dims=(0, 0, None))(
        *(t.detach()[None] for t in tensors[:2]), tensors[2].detach()
    )


def _fake(*tensors: Tensor) -> None:
    with FakeTensorMode() as mode:
        position_lambda(*map(mode.from_tensor, tensors))


def _on_meta(*tensors: Tensor) -> None:
    position_lambda(*(tensor.to("meta") for tensor in tensors))


def _empty(*tensors: Tensor) -> None:
    position_lambda(tensors[0][:0], tensors[1][:0], tensors[2])


def _counted(*tensors: Tensor) -> None:
    with FlopCounterMode(display=False):
        position_lambda(*tensors)


@pytest.mark.parametrize(
    "call",
    [
        *(_mapped, _fake, _on_meta, _empty, _counted),
        *(pytest.param(f, marks=pytest.mark.slow) for f in (_compiled, _exported, _traced)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_measured(clock, call) -> None:
    call(*inputs())
    assert chosen() == [] and clock.asked == []
    position_lambda(*inputs())  # and without it, it is
    assert chosen() == ["banded"]


def test_a_back_end_that_cannot_compute_a_call_is_no_candidate(clock, monkeypatch, log) -> None:
    monkeypatch.setitem(autotune.CANDIDATES, "cpu", ("conv", "triton"))
    monkeypatch.setitem(BACKENDS, "triton", BACKENDS["conv"])
    reasons = ["it needs CUDA", "it needs CUDA", None]
    monkeypatch.setitem(autotune.UNSUPPORTED, "triton", lambda *_: reasons.pop(0))
    clock.seconds["triton"] = 0.5
    found = [autotune.measured_backend(*inputs(), BACKENDS) for _ in range(3)]
    assert found == [None, None, "triton"] and len(log.records) == 1


def test_nothing_is_measured_in_a_capture(monkeypatch) -> None:
    class OnGpu:
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert autotune._is_watched(OnGpu()) and not autotune._is_watched(inputs()[0])


# ---- the training around it ----


def test_it_disturbs_nothing(clock, monkeypatch) -> None:
    """The random state, the gradients, the graph and the memory are those of the named back end."""
    seen = []

    def noted(*tensors: Tensor, backend: BackEnd = BACKENDS["conv"]) -> Tensor:
        output = backend(*tensors)
        seen.extend(weakref.ref(tensor) for tensor in (*tensors, output))
        return output

    monkeypatch.setitem(BACKENDS, "conv", noted)  # which is measured, and not taken
    tensors, twins = inputs(n=2), inputs(n=2)
    state = torch.get_rng_state()
    output = position_lambda(*tensors)
    assert chosen() == ["banded"] and torch.equal(torch.get_rng_state(), state)
    assert len(seen) == 4 and not any(reference() is not None for reference in seen)
    assert all(tensor.grad is None and tensor._version == 0 for tensor in tensors)
    expected = position_lambda(*twins, backend="banded")
    for result in (output, expected):
        result.square().sum().backward()
    assert torch.equal(output, expected)
    for tensor, twin in zip(tensors, twins, strict=True):
        assert torch.equal(tensor.grad, twin.grad)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_does_not_see_it(clock, reentrant) -> None:
    tensors = inputs()
    output = checkpoint(position_lambda, *tensors, use_reentrant=reentrant)
    output.sum().backward()
    twins = inputs()
    position_lambda(*twins, backend="banded").sum().backward()
    assert all(torch.equal(t.grad, twin.grad) for t, twin in zip(tensors, twins, strict=True))


def test_autocast_and_inference_mode(clock) -> None:
    tensors = [tensor.bfloat16() for tensor in inputs()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        position_lambda(*tensors)
    with torch.inference_mode():
        position_lambda(*inputs())
    assert chosen() == ["banded", "banded"]


# ---- several processes ----


@pytest.mark.parametrize("shared", [False, True])
def test_another_process_than_the_first_measures_nothing(clock, monkeypatch, shared) -> None:
    monkeypatch.setattr(autotune, "decides", lambda: False)
    monkeypatch.setattr(CHOICES, "shared", shared)
    position_lambda(*inputs())
    assert chosen() == [] and clock.asked == []
    CHOICES.remember(environment_of(CPU), kind_of(*inputs()), "banded")  # the first one's
    position_lambda(*inputs())
    assert chosen() == ([] if shared else ["banded"]) and clock.asked == []


def test_what_is_new_is_handed_on_once(clock) -> None:
    position_lambda(*inputs())
    new = CHOICES.take_new()
    assert new == CHOICES.table() != {} and CHOICES.take_new() == {}
    CHOICES.clear()
    CHOICES.update(new)
    assert CHOICES.table() == new and CHOICES.take_new() == {}
