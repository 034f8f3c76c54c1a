"""What "auto" measures, and what it takes then."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from autotune_helpers import CPU, chosen, inputs
from torch import Tensor

from lambda_det.layers import autotune, measurement, native_build, position_lambda
from lambda_det.layers.autotune import CANDIDATES, environment_of, kind_of
from lambda_det.layers.choices import CHOICES, file_of
from lambda_det.layers.native_build import BuildError
from lambda_det.layers.position_lambda import BACKENDS


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in log.records if r.levelno == logging.WARNING]


def test_the_candidates_are_back_ends() -> None:
    assert {name for names in CANDIDATES.values() for name in names} <= BACKENDS.keys()
    assert all(names[0] == "conv" for names in CANDIDATES.values())


@pytest.mark.parametrize("fastest", ["conv", "banded"])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_clock_decides_once(clock, monkeypatch, log, fastest, gradient) -> None:
    clock.seconds[fastest] = 0.5
    tensors = inputs(gradient=gradient)
    output = position_lambda(*tensors)
    assert chosen() == [fastest] and {*clock.asked} == {"conv", "banded"}
    (line,) = [r.getMessage() for r in log.records]
    assert repr(fastest) in line and "500 ms" in line
    monkeypatch.setattr(measurement, "seconds_of", None)  # asked no more
    taken = []
    for name in ("conv", "banded"):
        monkeypatch.setitem(
            BACKENDS, name, lambda *t, name=name, f=BACKENDS[name]: taken.append(name) or f(*t)
        )
    assert torch.equal(position_lambda(*tensors), output)
    assert taken == [fastest] and len(log.records) == 1


@pytest.mark.slow
def test_native_is_a_candidate_where_it_can_be_compiled(native_kernels, clock, monkeypatch) -> None:
    monkeypatch.setitem(CANDIDATES, "cpu", ("conv", "banded", "native"))
    clock.seconds["native"] = 0.1
    position_lambda(*inputs())
    assert chosen() == ["native"]
    CHOICES.clear()

    def no_library() -> None:
        raise BuildError("no compiler")

    monkeypatch.setattr(native_build, "library", no_library)
    position_lambda(*inputs(width=20))
    assert chosen() == ["banded"]


@pytest.mark.parametrize(
    ("conv", "banded", "rounds"),
    [(5.0, 1.0, 1), (0.05, 0.01, measurement.ENOUGH), (1.1, 1.0, measurement.ROUNDS)],
)
def test_what_is_clearly_slower_is_soon_measured_no_more(clock, conv, banded, rounds) -> None:
    clock.seconds = {"conv": conv, "banded": banded}
    position_lambda(*inputs())
    assert clock.asked == ["conv", "banded"] * rounds and chosen() == ["banded"]


def test_a_real_clock_takes_the_faster_one(new_user, monkeypatch) -> None:
    def slow(*tensors: Tensor) -> Tensor:
        for _ in range(40):
            output = BACKENDS["conv"](*tensors)
        return output

    monkeypatch.setitem(BACKENDS, "banded", slow)
    position_lambda(*inputs(n=2, v=16, height=16, width=16))
    assert chosen() == ["conv"]


# ---- a kernel that is wrong or fails ----


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * 1.001


def _failing(*tensors: Tensor) -> Tensor:
    raise RuntimeError("no such instruction\nat line 2")


def _one_wrong_number(*tensors: Tensor) -> Tensor:
    output = BACKENDS["conv"](*tensors)
    return output + 0.01 * torch.nn.functional.one_hot(
        torch.tensor(output.numel() // 2), output.numel()
    ).view_as(output)


BAD = {
    "one wrong number": (_one_wrong_number, "differs from 'conv' by a share of 0.00"),
    "NaN": (lambda *t: BACKENDS["conv"](*t) * torch.nan, "differs from 'conv' by a share of inf"),
    "gradient": (lambda *t: WrongGradient.apply(BACKENDS["conv"](*t)), "by a share of 0.001,"),
    "failing": (_failing, "fails with RuntimeError: no such instruction ("),
}


@pytest.mark.parametrize(("backend", "said"), BAD.values(), ids=BAD)
def test_a_wrong_or_failing_kernel_is_never_taken(clock, monkeypatch, log, backend, said) -> None:
    monkeypatch.setitem(BACKENDS, "banded", backend)
    for height in (6, 20, 6):
        tensors = inputs(height=height)
        expected = position_lambda(*tensors, backend="conv")
        assert torch.equal(position_lambda(*tensors), expected)
    assert chosen() == ["conv", "conv"] and clock.asked == []
    (line,) = warnings(log)
    assert said in line and "'banded' is not used" in line and "\n" not in line
    assert not Path(file_of(environment_of(CPU))).exists()  # a later process looks again


def test_a_failing_judge_says_its_error_itself(clock, monkeypatch) -> None:
    monkeypatch.setitem(BACKENDS, "conv", _failing)
    with pytest.raises(RuntimeError, match="no such instruction"):
        position_lambda(*inputs())


def test_with_too_little_memory_one_image_is_measured(clock, monkeypatch, log) -> None:
    sizes = []

    def large(*tensors: Tensor) -> Tensor:
        sizes.append(len(tensors[0]))
        if len(tensors[0]) > limit:
            raise measurement._OUT_OF_MEMORY("CUDA out of memory")
        return BACKENDS["conv"](*tensors)

    monkeypatch.setitem(BACKENDS, "banded", large)
    limit = 1
    assert autotune.measured_backend(*inputs(n=3), BACKENDS) == "banded" and sizes[:2] == [3, 1]
    assert warnings(log) == []
    limit = 0
    assert autotune.measured_backend(*inputs(n=3, height=20), BACKENDS) == "conv"
    (line,) = warnings(log)
    assert "unmeasured (CUDA out of memory)" in line


@pytest.mark.parametrize("factor", [0.0, float("nan")])
def test_what_cannot_be_compared_decides_nothing(clock, factor) -> None:
    query, value, embedding = inputs()
    assert autotune.measured_backend(query, value * factor, embedding, BACKENDS) is None
    assert chosen() == [] and clock.asked == []


# ---- the file ----


def new_process() -> None:
    CHOICES.clear()


def test_a_later_process_reads_the_file(clock, log) -> None:
    position_lambda(*inputs())
    position_lambda(*inputs(height=20))
    assert len(chosen()) == 2
    new_process()
    clock.asked, clock.seconds = [], {}
    log.clear()
    for height in (6, 20, 6):
        position_lambda(*inputs(height=height))
    assert chosen() == ["banded", "banded"]
    assert [r.getMessage().endswith("(measured earlier)") for r in log.records] == [True] * 2


DAMAGED = {
    "cut": "{", "list": "[]", "number": "3", "list inside": '{"%s": []}',
    "number inside": '{"%s": {"%s": 1}}', "unknown": '{"%s": {"%s": "quantum"}}',
    "reference": '{"%s": {"%s": "reference"}}',
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_written_anew(clock, text) -> None:
    position_lambda(*inputs())
    environment, call = environment_of(CPU), kind_of(*inputs())
    path = Path(file_of(environment))
    good = json.loads(path.read_text())
    assert good == {environment: {call: "banded"}}
    path.write_text(text.replace("%s", environment, 1).replace("%s", call, 1))
    new_process()
    clock.asked = []
    position_lambda(*inputs())
    assert chosen() == ["banded"] and clock.asked and json.loads(path.read_text()) == good


@pytest.mark.parametrize("root", ["file/cache", "relative"])
def test_a_folder_that_cannot_be_written_is_no_error(clock, monkeypatch, tmp_path, root) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    folder = str(tmp_path / root) if root != "relative" else root
    monkeypatch.setenv("XDG_CACHE_HOME", folder)
    position_lambda(*inputs())
    assert chosen() == ["banded"] and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_two_processes_keep_each_others_choices(clock) -> None:
    position_lambda(*inputs())
    new_process()  # with the first one's file read before the second one writes
    position_lambda(*inputs())
    CHOICES.remember(environment_of(CPU), "of another process", "conv")
    position_lambda(*inputs(height=20))
    assert len(json.loads(Path(file_of(environment_of(CPU))).read_text())[environment_of(CPU)]) == 3


# ---- what a choice belongs to ----


@pytest.mark.parametrize("change", ["threads", "machine", "kernels", "release"])
def test_another_environment_has_its_own_choice(clock, monkeypatch, change) -> None:
    position_lambda(*inputs())
    before = environment_of(CPU)
    if change == "threads":
        torch.set_num_threads(torch.get_num_threads() + 1)
    elif change == "release":
        monkeypatch.setattr(torch, "__version__", "9.9")
    else:
        monkeypatch.setattr(autotune, f"_{change}", lambda *_: "another")
    assert environment_of(CPU) != before and file_of(environment_of(CPU)) != file_of(before)
    clock.seconds["conv"] = 0.5
    position_lambda(*inputs())
    assert sorted(chosen()) == ["banded", "conv"]


def test_another_kind_of_call_has_its_own_choice() -> None:
    query, value, embedding = inputs()
    other = [
        inputs(gradient=False), [query.detach(), value, embedding],
        [query.double(), value, embedding], [query, value, embedding.double()],
        inputs(n=2), inputs(v=5), inputs(height=9), inputs(width=9), inputs(window=9),
        [query, value.expand(-1, 2, -1, -1, -1), embedding.expand(-1, 2, -1, -1)],
        [query, value.permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2), embedding],
        [query[:, :, :2], value, embedding[:2]], [query[:, :1], value, embedding],
    ]  # fmt: skip
    kinds = [kind_of(query, value, embedding), *(kind_of(*tensors) for tensors in other)]
    with torch.no_grad():
        assert kind_of(query, value, embedding) == kinds[1]
    assert len({*kinds}) == len(kinds)


def test_images_of_many_sizes_are_of_few_kinds() -> None:
    """Of detectron2's multi-scale training, 640 to 800 by up to 1333 pixels, and of one whose
    scales differ by a factor of three; layers of stride 16."""
    for shortest, most in ((640, 6), (320, 16)):
        shapes = {
            (short // 16 + 1, int(min(1333, short * ratio / 100)) // 16 + 1)
            for short in range(shortest, 801, 8)
            for ratio in range(100, 200)
        }
        kinds = {
            autotune._kind(((2, 4, 16, *s), (2, 1, 64, *s), (16, 1, 23, 23)), (), (), False)
            for s in shapes | {(x, y) for y, x in shapes}
        }
        assert len(shapes) > 400 and len(kinds) <= most, len(kinds)
