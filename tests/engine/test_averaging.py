"""The average of the weights: its numbers, its resume, and that evaluations see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_differences import content
from detectron2.utils.events import EventStorage
from torch import nn

from lambda_det.checkpoint import load_weights
from lambda_det.configs import load_config
from lambda_det.engine.averaging import WeightAverage
from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.values import check_values
from lambda_det.errors import InputError

pytestmark = [
    pytest.mark.slow,  # trainings
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
KEYS = ("SOLVER.EMA_DECAY", 0.75, "SOLVER.MAX_ITER", 3, "DATALOADER.NUM_WORKERS", 0)


def average_of(model: nn.Module, decay: float) -> WeightAverage:
    return WeightAverage(model, decay, RunCheckpointer(model, ""))


def test_numbers() -> None:
    """Against sums of powers of the decay, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).double()
    average, seen = average_of(model, 0.9), []
    with average.applied():  # nothing to apply yet
        assert model[0].weight.requires_grad
    for _ in range(6):
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.ndim)):
            tensor.data.normal_()
        model[1].num_batches_tracked += 1
        average.update()
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    weights = [0.9**5, *(0.1 * 0.9 ** (5 - i) for i in range(1, 6))]
    with EventStorage() as storage, average.applied():
        for name, tensor in model.state_dict().items():
            if name.endswith("num_batches_tracked"):
                assert tensor == 6
            else:
                expected = sum(w * s[name] for w, s in zip(weights, seen, strict=True))
                torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)
    assert storage.latest()["ema_decay"][0] == 0.9
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, seen[-1][name])
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert torch.equal(model[0].weight, seen[-1]["0.weight"])
    with pytest.raises(ValueError, match="another network"):
        average_of(nn.Linear(3, 5), 0.9).load_state_dict(average.state_dict())


def test_shared_weights_come_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    average = average_of(model, 0.5)
    for value in (1.0, 2.0):
        nn.init.constant_(model[0].weight, value)
        average.update()
    with EventStorage(), average.applied():
        assert (model[0].weight == 1.5).all()
    assert (model[0].weight == 2).all() and (
        average.state_dict()["average"]["0.weight"] == 1.5
    ).all()


def evaluate(model: nn.Module) -> dict:
    """Results are the numbers of the weights."""
    return {"bbox": {"AP": model.backbone.fpn_lateral4.weight.double().sum().item()}}


@pytest.fixture(scope="module")
def undisturbed(make_training, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    make_training(folder, *KEYS, "TEST.EVAL_PERIOD", 2, evaluate=evaluate).train()
    return folder


def numbers(weights: dict) -> float:
    return weights["backbone.fpn_lateral4.weight"].double().sum().item()


def test_the_training_is_the_one_without_an_average(undisturbed, make_training, tmp_path) -> None:
    plain = make_training(tmp_path, *KEYS, "SOLVER.EMA_DECAY", 0.0)
    plain.train()
    ours, theirs = content(tmp_path)["model"], content(undisturbed)["model"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours
    assert not (tmp_path / "model_final_ema.pth").exists()
    assert "WeightAverage" not in content(tmp_path)["trainer"].get("hooks", {})


def test_it_is_evaluated_and_written(undisturbed, make_training, tmp_path, log) -> None:
    states = [content(undisturbed, f"model_000000{i}.pth")["model"] for i in range(3)]
    expected = 0.5625 * numbers(states[0]) + 0.1875 * numbers(states[1]) + 0.25 * numbers(states[2])
    average = content(undisturbed, "model_final_ema.pth")["model"]
    assert numbers(average) == pytest.approx(expected, rel=1e-4) != numbers(states[2])
    assert average.keys() == states[2].keys()
    lines = [json.loads(line) for line in (undisturbed / "metrics.json").read_text().splitlines()]
    assert lines[-1]["bbox/AP"] == numbers(average) and lines[-1]["ema_decay"] == 0.75
    # MODEL.WEIGHTS takes either file as what its name says.
    training = make_training(tmp_path, "SOLVER.MAX_ITER", 3)
    model = training.parts.model
    for name, weights in (("model_final_ema.pth", average), ("model_final.pth", states[2])):
        load_weights(model, str(undisturbed / name), complete=True, cfg=training.cfg)
        assert numbers(model.state_dict()) == numbers(weights)


def test_a_checkpoint_without_one_begins_it(make_training, tmp_path, log) -> None:
    make_training(tmp_path, *KEYS, "SOLVER.EMA_DECAY", 0.0, "SOLVER.MAX_ITER", 2).train()
    make_training(tmp_path, *KEYS).train(resume=True)
    assert "the checkpoint holds no average of the weights, SOLVER.EMA_DECAY 0.75" in log.text
    assert "SOLVER.EMA_DECAY: 0.0 -> 0.75" in log.text
    ours = content(tmp_path, "model_final_ema.pth")["model"]
    assert numbers(ours) == numbers(content(tmp_path)["model"])


def test_a_run_that_goes_on_without_one_is_judged_by_its_weights(make_training, tmp_path) -> None:
    make_training(tmp_path, *KEYS, "SOLVER.MAX_ITER", 2).train()
    training = make_training(tmp_path, *KEYS, "SOLVER.EMA_DECAY", 0.0, evaluate=evaluate)
    assert training.train(resume=True)["bbox"]["AP"] == numbers(content(tmp_path)["model"])
    assert "WeightAverage" not in content(tmp_path)["trainer"].get("hooks", {})
    assert "ema_decay" not in (tmp_path / "metrics.json").read_text().splitlines()[-1]


@pytest.mark.parametrize(("decay", "precise"), [(1.0, False), (-0.1, False), (0.9, True)])
def test_wrong_values_are_one_line(decay, precise) -> None:
    words = ["SOLVER.EMA_DECAY", str(decay), "TEST.PRECISE_BN.ENABLED", str(precise)]
    with pytest.raises(InputError, match=r"^SOLVER\.EMA_DECAY="):
        check_values(load_config("", words))
