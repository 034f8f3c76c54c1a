"""A run that was interrupted and resumed is the run that nobody disturbed, to the last bit."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from lambda_det.engine import Trainer
from lambda_det.engine.interruption import INTERRUPTED_FILE, TrainingInterrupted
from lambda_det.errors import InputError

ITERATIONS = 4
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]
RETINANET = (
    "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", "False",
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
    "MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.RETINANET.NUM_CONVS", "1",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[16],[32],[64],[96],[160]]",
)  # fmt: skip


class At(HookBase):
    """Does something behind an iteration."""

    def __init__(self, iteration: int, action) -> None:
        self.iteration, self.action = iteration, action

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.action()


def content(folder: Path, name: str = "model_final.pth") -> dict:
    return torch.load(folder / name, weights_only=True)  # nothing but plain types


def losses(folder: Path) -> list[list[float]]:
    """[loss, iteration] of every iteration of a run, as its last checkpoint holds them."""
    return content(folder)["trainer"]["lambda_det"]["metrics"]["total_loss"]["values"]


def differences(one: object, other: object, name: str = "") -> list[str]:
    """Where two checkpoints differ."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        return [n for key in one for n in differences(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other), name
        pairs = enumerate(zip(one, other, strict=True))
        return [n for i, (a, b) in pairs for n in differences(a, b, f"{name}/{i}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [name]


def run(make_trainer, folder: Path, *overrides: object, resume: bool = False) -> Trainer:
    trainer = make_trainer(folder, *overrides)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def undisturbed(make_trainer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(make_trainer, folder, "DATALOADER.NUM_WORKERS", 0)
    return folder


@pytest.fixture
def taken_up(undisturbed, make_trainer, tmp_path):
    """A run that goes on from one of the undisturbed run's checkpoints."""

    def go_on(iteration: int, *overrides: object, source: Path = undisturbed) -> Path:
        folder = tmp_path / f"from{iteration}"
        folder.mkdir()
        name = f"model_{iteration:07d}.pth"
        shutil.copy(source / name, folder)
        (folder / "last_checkpoint").write_text(name)
        (folder / "metrics.json").write_text(
            f'{{"iteration": {iteration}}}\n{{"iteration": {iteration + 1}, "total_loss": 9'
        )
        run(make_trainer, folder, *overrides, resume=True)
        return folder

    return go_on


def ignoring_folder(found: list[str]) -> list[str]:
    return [name for name in found if name != "/trainer/lambda_det/config"]


@pytest.mark.parametrize(("iteration", "workers"), [(0, 2), (1, 0), (2, 0)])
def test_from_any_iteration(undisturbed, taken_up, iteration, workers):
    folder = taken_up(iteration, "DATALOADER.NUM_WORKERS", workers)
    assert losses(folder) == losses(undisturbed)
    assert [step for _, step in losses(folder)] == list(range(ITERATIONS))
    # weights, running statistics, momentum, learning rates, seed, recent metrics
    assert ignoring_folder(differences(content(folder), content(undisturbed))) == []
    momentum = content(folder)["trainer"]["_trainer"]["optimizer"]["state"][0]["momentum_buffer"]
    assert momentum.abs().max() > 0
    lines = (folder / "metrics.json").read_text().splitlines()
    assert json.loads(lines[0]) == {"iteration": iteration}
    assert json.loads(lines[1])["iteration"] == ITERATIONS - 1  # and no line of a later iteration


def test_the_same_seed_gives_the_same_run_and_another_one_another(
    undisturbed, make_trainer, tmp_path
):
    run(make_trainer, tmp_path / "again", "DATALOADER.NUM_WORKERS", 1)
    assert ignoring_folder(differences(content(tmp_path / "again"), content(undisturbed))) == []
    run(make_trainer, tmp_path / "other", "SEED", 2, "SOLVER.MAX_ITER", 1)
    assert losses(tmp_path / "other")[0] != losses(undisturbed)[0]


def test_without_a_seed_the_drawn_one_is_kept(make_trainer, taken_up, tmp_path):
    source = tmp_path / "source"
    trainer = run(make_trainer, source, "SEED", -1, "SOLVER.MAX_ITER", 3)
    folder = taken_up(1, "SEED", -1, "SOLVER.MAX_ITER", 3, source=source)
    assert content(folder)["trainer"]["lambda_det"]["seed"] == trainer.data_loader.seed
    assert ignoring_folder(differences(content(folder), content(source))) == []


def test_the_running_mean_of_dense_detectors_goes_on(make_trainer, taken_up, tmp_path):
    """detectron2 keeps it as a number of the module, which no state_dict holds."""
    source = tmp_path / "source"
    run(make_trainer, source, *RETINANET, "SOLVER.MAX_ITER", 3)
    folder = taken_up(0, *RETINANET, "SOLVER.MAX_ITER", 3, source=source)
    assert losses(folder) == losses(source)
    (means,) = content(folder)["trainer"]["lambda_det"]["running_means"]
    assert list(means) == [""] and means[""] != 100
    assert ignoring_folder(differences(content(folder), content(source))) == []


class FailsAtLast(Trainer):
    """As a loss that is not finite would end it."""

    def run_step(self) -> None:
        raise FloatingPointError("the loss is not finite")

    def _evaluate(self) -> None:
        raise AssertionError("a network that has failed is evaluated")


def test_a_failed_last_iteration_is_not_evaluated(make_trainer, tmp_path):
    trainer = make_trainer(tmp_path, "SOLVER.MAX_ITER", 1, cls=FailsAtLast)
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        trainer.train()


def test_precise_statistics_go_on(make_trainer, taken_up, tmp_path):
    """Their loader reads on at every evaluation."""
    keys = ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 1, "TEST.EVAL_PERIOD", 2)
    source = tmp_path / "source"
    run(make_trainer, source, *keys, "SOLVER.MAX_ITER", 4)
    folder = taken_up(2, *keys, "SOLVER.MAX_ITER", 4, source=source)
    assert ignoring_folder(differences(content(folder), content(source))) == []


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(undisturbed, make_trainer, tmp_path, caplog, signum, status):
    trainer = make_trainer(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    trainer.register_hooks([At(2, lambda: signal.raise_signal(signum))])
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingInterrupted) as stop, caplog.at_level("INFO", "lambda_det"):
        trainer.train()
    assert stop.value.code == status
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    name = signal.Signals(signum).name
    (line,) = [r.getMessage() for r in caplog.records if "to go on" in r.getMessage()]
    assert line.startswith(f"stopped by {name} after iteration 3 of 4") and "--resume" in line
    facts = json.loads((tmp_path / INTERRUPTED_FILE).read_text())
    assert facts == {"signal": name, "iteration": 3, "max_iter": 4}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert sorted(path.name for path in tmp_path.glob("*.pth*")) == ["model_0000002.pth"]

    run(make_trainer, tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100, resume=True)
    assert not (tmp_path / INTERRUPTED_FILE).exists()
    assert ignoring_folder(differences(content(tmp_path), content(undisturbed))) == []


class Evaluated(Trainer):
    """Gets a signal in an evaluation, once."""

    signals = 1

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        if cls.signals:
            cls.signals -= 1
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the evaluation went on")
        return {"bbox": {"AP": 1.0}}


@pytest.mark.parametrize(("period", "done"), [(2, 2), (0, 3)])
def test_a_signal_ends_an_evaluation_at_once(make_trainer, tmp_path, monkeypatch, period, done):
    """In the middle of the training it saves; behind the last iteration all is saved."""
    monkeypatch.setattr(Evaluated, "signals", 1)
    keys = ("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", period)
    with pytest.raises(TrainingInterrupted):
        make_trainer(tmp_path, *keys, cls=Evaluated).train()
    assert json.loads((tmp_path / INTERRUPTED_FILE).read_text())["iteration"] == done
    name = (tmp_path / "last_checkpoint").read_text()
    assert name == ("model_0000001.pth" if done == 2 else "model_final.pth")
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == done - 1
    again = make_trainer(tmp_path, *keys, cls=Evaluated)
    again.resume_or_load(resume=True)
    assert again.train() == {"bbox": {"AP": 1.0}}
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert last["bbox/AP"] == 1 and last["iteration"] == 3


def test_all_processes_stop_when_one_of_them_is_told_to(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    told = [[None, None], [None, signal.SIGTERM]]
    monkeypatch.setattr(comm, "all_gather", lambda value: told[1])
    assert trainer._interruption.signum is None and trainer._interruption.agreed() == 15
    monkeypatch.setattr(comm, "all_gather", lambda value: told[0])
    assert trainer._interruption.agreed() is None


def test_what_is_not_the_same_run_is_said(undisturbed, make_trainer, taken_up, caplog):
    with caplog.at_level("WARNING", "lambda_det"):
        taken_up(2, "SOLVER.BASE_LR", 0.01, "SEED", 5, "SOLVER.CHECKPOINT_KEEP", 2)
    said = [r.getMessage().partition(": ")[2] for r in caplog.records if "not the" in r.msg]
    assert said == ["SEED: 1 -> 5", "SOLVER.BASE_LR: 0.05 -> 0.01"]


def test_a_checkpoint_of_detectron2s_own_trainer(undisturbed, make_trainer, tmp_path, caplog):
    """v0.5 and v0.6 save no state of the optimiser; none saves a seed."""
    old = content(undisturbed, "model_0000002.pth")
    old["trainer"] = {key: old["trainer"][key] for key in ("iteration", "hooks")}
    torch.save(old, tmp_path / "model_0000002.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    with caplog.at_level("WARNING", "lambda_det"):
        run(make_trainer, tmp_path, resume=True)
    text = caplog.text
    assert "no state of the optimiser" in text and "no seed" in text
    assert content(tmp_path)["iteration"] == ITERATIONS - 1


def test_another_network_is_refused(undisturbed, make_trainer, tmp_path):
    shutil.copy(undisturbed / "model_0000002.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    with pytest.raises(InputError, match=r"^--resume: .*model_0000002.pth is of another training"):
        make_trainer(tmp_path, "MODEL.FPN.OUT_CHANNELS", 24).resume_or_load(resume=True)
