"""The chaos tool finds every difference between two trainings."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest
import torch

from lambda_det.errors import InputError
from studies.endurance import tiny_training
from studies.endurance.chaos import Chaos, _compare, _Training, run_chaos


@pytest.fixture
def trained(tmp_path):
    """Folders with the losses and the last weights of two trainings."""

    def make(name: str, losses: list[tuple[int, float]], weight: float, momentum: float = 2.0):
        folder = tmp_path / name
        folder.mkdir()
        lines = [json.dumps({"iteration": i, "loss": loss}) for i, loss in losses]
        (folder / "losses.jsonl").write_text("\n".join([*lines, '{"iterat']))
        buffer = {"momentum_buffer": torch.tensor([momentum, 1.0])}
        state = {"_trainer": {"optimizer": {"state": {0: buffer}}}}
        content = {"model": {"w": torch.tensor([weight])}, "trainer": state}
        torch.save(content, folder / "model_final.pth")
        return _Training(str(folder), "data", 3)

    return make


def test_every_computation_of_an_iteration_counts(trained):
    calm = trained("calm", [(0, 3.0), (1, 2.0), (2, 1.0)], 1.0)
    # 1 was computed twice, and the first time it was another number
    again = trained("again", [(0, 3.0), (1, 2.5), (1, 2.0), (2, 1.0)], 1.0)
    result = Chaos(3)
    _compare(result, calm, again)
    assert (result.loss_difference, result.repeated, result.most_lost) == (0.5, 1, 1)
    assert not result.same
    same = trained("same", [(0, 3.0), (1, 2.0), (0, 3.0), (1, 2.0), (2, 1.0)], 1.0)
    _compare(result := Chaos(3), calm, same)
    assert result.same and (result.repeated, result.most_lost) == (2, 2)


@pytest.mark.parametrize(("weight", "momentum"), [(1.25, 2.0), (1.0, 1.75)])
def test_weights_and_momenta_count(trained, weight, momentum):
    losses = [(0, 3.0)]
    _compare(result := Chaos(1), trained("a", losses, 1.0), trained("b", losses, weight, momentum))
    assert result.weight_difference == 0.25 and not result.same


def test_nan_is_a_difference(trained):
    losses = [(0, 3.0), (1, 2.0)]
    calm, nan = trained("a", losses, 1.0), trained("b", losses, 1.0, float("nan"))
    _compare(result := Chaos(2), calm, nan)
    assert not result.same
    _compare(result := Chaos(2), calm, trained("c", [(0, 3.0), (1, float("nan"))], 1.0))
    assert not result.same


def test_a_missing_iteration_is_an_error(trained):
    with pytest.raises(InputError, match="iteration 1 was never computed"):
        _compare(Chaos(2), trained("a", [(0, 1.0), (1, 1.0)], 1.0), trained("b", [(0, 1.0)], 1.0))


def test_a_training_that_ends_by_itself_is_not_a_kill(tmp_path, monkeypatch):
    training = _Training(str(tmp_path / "run"), "data", 3)
    python = [sys.executable, "-c"]
    monkeypatch.setattr(tiny_training, "tied", lambda command: [*python, "print('done')"])
    with pytest.raises(InputError, match=r"ended by itself with 0 .*before its kill.*done"):
        training.kill("write", random.Random(0))
    monkeypatch.setattr(tiny_training, "tied", lambda c: [*python, "raise SystemExit(3)"])
    with pytest.raises(InputError, match="ended with 3"):
        training.finish()


def test_only_a_file_of_this_attempt_is_half_written_by_it(tmp_path):
    training = _Training(str(tmp_path), "data", 3)
    (tmp_path / "model_0000001.pth.tmp").touch()
    os.utime(tmp_path / "model_0000001.pth.tmp", (1, 1))
    assert training.half_written() and not training.half_written(since=time.time() - 60)


def test_an_output_that_is_there_is_left_alone(tmp_path: Path):
    with pytest.raises(InputError, match="exists already"):
        run_chaos(str(tmp_path), 1)
    with pytest.raises(InputError, match="--kills 0"):
        run_chaos(str(tmp_path / "new"), 0)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lazy", "pretrain"])
def test_other_trainings_have_losses_and_weights_to_compare(tmp_path, kind):
    data = str(tmp_path / "shapes")
    tiny_training.make_dataset(data)
    tiny_training.make_image_folder(f"{data}_folder")
    one, other = (_Training(str(tmp_path / name), data, 10, kind) for name in ("one", "other"))
    for training in (one, other):
        training.finish()
    assert [iteration for iteration, _ in one.losses()] == list(range(10))
    _compare(result := Chaos(10, kind), one, other)
    assert result.same and result.row()["training"] == kind
