"""A run that was interrupted and resumed is the run that nobody disturbed, to the last bit."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from at_iteration import At
from checkpoint_differences import content, differences, ignoring_folder
from detectron2.utils import comm

from lambda_det.engine.interruption import INTERRUPTED_FILE, Interruption, TrainingInterrupted
from lambda_det.errors import InputError

ITERATIONS = 4
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]
RETINANET = (
    "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", "False",
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
    "MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.RETINANET.NUM_CONVS", "1",
    "MODEL.ANCHOR_GENERATOR.SIZES", "[[16],[32],[64],[96],[160]]",
)  # fmt: skip


def run_state(folder: Path) -> dict:
    return content(folder)["trainer"]["hooks"]["RunState"]


def losses(folder: Path) -> list[list[float]]:
    """[loss, iteration] of every iteration of a run, as its last checkpoint holds them."""
    return run_state(folder)["metrics"]["total_loss"]["values"]


def run(make_training, folder: Path, *overrides: object, resume: bool = False):
    training = make_training(folder, *overrides)
    training.train(resume=resume)
    return training


@pytest.fixture(scope="module")
def undisturbed(make_training, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(make_training, folder, "DATALOADER.NUM_WORKERS", 0)
    return folder


@pytest.fixture
def taken_up(undisturbed, make_training, tmp_path):
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
        run(make_training, folder, *overrides, resume=True)
        return folder

    return go_on


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
    undisturbed, make_training, tmp_path
):
    run(make_training, tmp_path / "again", "DATALOADER.NUM_WORKERS", 1)
    assert ignoring_folder(differences(content(tmp_path / "again"), content(undisturbed))) == []
    run(make_training, tmp_path / "other", "SEED", 2, "SOLVER.MAX_ITER", 1)
    assert losses(tmp_path / "other")[0] != losses(undisturbed)[0]


def test_without_a_seed_the_drawn_one_is_kept(make_training, taken_up, tmp_path):
    source = tmp_path / "source"
    training = run(make_training, source, "SEED", -1, "SOLVER.MAX_ITER", 3)
    folder = taken_up(1, "SEED", -1, "SOLVER.MAX_ITER", 3, source=source)
    assert run_state(folder)["seed"] == training.parts.train_loader.seed
    assert ignoring_folder(differences(content(folder), content(source))) == []


def test_the_running_mean_of_dense_detectors_goes_on(make_training, taken_up, tmp_path):
    """detectron2 keeps it as a number of the module, which no state_dict holds."""
    source = tmp_path / "source"
    run(make_training, source, *RETINANET, "SOLVER.MAX_ITER", 3)
    folder = taken_up(0, *RETINANET, "SOLVER.MAX_ITER", 3, source=source)
    assert losses(folder) == losses(source)
    (means,) = run_state(folder)["running_means"]
    assert list(means) == [""] and means[""] != 100
    assert ignoring_folder(differences(content(folder), content(source))) == []


def test_a_failed_last_iteration_is_not_evaluated(make_training, tmp_path):
    def evaluate(model):
        raise AssertionError("a network that has failed is evaluated")

    def fail():
        raise FloatingPointError("the loss is not finite")

    training = make_training(tmp_path, "SOLVER.MAX_ITER", 1, evaluate=evaluate)
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        training.train(hooks=[At(0, fail)])


def test_precise_statistics_go_on(make_training, taken_up, tmp_path):
    """Their loader reads on at every evaluation."""
    keys = ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 1, "TEST.EVAL_PERIOD", 2)
    source = tmp_path / "source"
    run(make_training, source, *keys, "SOLVER.MAX_ITER", 4)
    folder = taken_up(2, *keys, "SOLVER.MAX_ITER", 4, source=source)
    assert ignoring_folder(differences(content(folder), content(source))) == []


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(undisturbed, make_training, tmp_path, caplog, signum, status):
    training = make_training(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100)
    stop_at_2 = At(2, lambda: signal.raise_signal(signum))
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(TrainingInterrupted) as stop, caplog.at_level("INFO", "lambda_det"):
        training.train(hooks=[stop_at_2])
    assert stop.value.code == status
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    name = signal.Signals(signum).name
    (line,) = [r.getMessage() for r in caplog.records if "to go on" in r.getMessage()]
    assert line.startswith(f"stopped by {name} after iteration 3 of 4")
    assert line.endswith("to go on: run(parts, options, resume=True)")
    facts = json.loads((tmp_path / INTERRUPTED_FILE).read_text())
    assert facts == {"signal": name, "iteration": 3, "max_iter": 4}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert sorted(path.name for path in tmp_path.glob("*.pth*")) == ["model_0000002.pth"]

    run(make_training, tmp_path, "SOLVER.CHECKPOINT_PERIOD", 100, resume=True)
    assert not (tmp_path / INTERRUPTED_FILE).exists()
    assert ignoring_folder(differences(content(tmp_path), content(undisturbed))) == []


@pytest.mark.parametrize(("period", "done"), [(2, 2), (0, 3)])
def test_a_signal_ends_an_evaluation_at_once(make_training, tmp_path, period, done):
    """In the middle of the training it saves; after the last iteration all is saved."""
    signals = [signal.SIGTERM]

    def evaluate(model):
        if signals:
            signal.raise_signal(signals.pop())
            raise AssertionError("the evaluation went on")
        return {"bbox": {"AP": 1.0}}

    keys = ("SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", period)
    with pytest.raises(TrainingInterrupted):
        make_training(tmp_path, *keys, evaluate=evaluate).train()
    assert json.loads((tmp_path / INTERRUPTED_FILE).read_text())["iteration"] == done
    name = (tmp_path / "last_checkpoint").read_text()
    assert name == ("model_0000001.pth" if done == 2 else "model_final.pth")
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == done - 1
    again = make_training(tmp_path, *keys, evaluate=evaluate)
    assert again.train(resume=True) == {"bbox": {"AP": 1.0}}
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert last["bbox/AP"] == 1 and last["iteration"] == 3


def test_all_processes_stop_when_one_of_them_is_told_to(monkeypatch):
    interruption = Interruption()
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    for told, expected in (([None, signal.SIGTERM], signal.SIGTERM), ([None, None], None)):
        monkeypatch.setattr(comm, "all_gather", lambda value, told=told: told)
        assert interruption.signum is None and interruption.agreed() == expected


def test_what_is_not_the_same_run_is_said(undisturbed, make_training, taken_up, caplog):
    with caplog.at_level("WARNING", "lambda_det"):
        taken_up(2, "SOLVER.BASE_LR", 0.01, "SEED", 5, "SOLVER.CHECKPOINT_KEEP", 2)
    said = [r.getMessage().partition(": ")[2] for r in caplog.records if "not the" in r.msg]
    assert said == ["SEED: 1 -> 5", "SOLVER.BASE_LR: 0.05 -> 0.01"]


def test_a_checkpoint_of_detectron2s_own_trainer(undisturbed, make_training, tmp_path, caplog):
    """v0.5 and v0.6 save no state of the optimiser; none saves a seed."""
    old = content(undisturbed, "model_0000002.pth")
    del old["trainer"]["hooks"]["RunState"]
    old["trainer"] = {key: old["trainer"][key] for key in ("iteration", "hooks")}
    torch.save(old, tmp_path / "model_0000002.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    with caplog.at_level("WARNING", "lambda_det"):
        run(make_training, tmp_path, resume=True)
    text = caplog.text
    assert "no state of the optimiser" in text and "no seed" in text
    assert content(tmp_path)["iteration"] == ITERATIONS - 1


def test_a_checkpoint_of_an_earlier_version(undisturbed, make_training, tmp_path):
    """Its trainer had the step's state in "_trainer" and that of the run in "lambda_det"."""
    old = content(undisturbed, "model_0000002.pth")
    state = old["trainer"]
    own = state["hooks"].pop("RunState")
    step = state.pop("_trainer") | {"skipped_steps": state.pop("skipped_steps")}
    old["trainer"] = state | {"_trainer": step, "lambda_det": own}
    torch.save(old, tmp_path / "model_0000002.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    run(make_training, tmp_path, resume=True)
    assert ignoring_folder(differences(content(tmp_path), content(undisturbed))) == []


def test_another_network_is_refused(undisturbed, make_training, tmp_path):
    shutil.copy(undisturbed / "model_0000002.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    with pytest.raises(InputError, match=r"^--resume: .*model_0000002.pth is of another training"):
        make_training(tmp_path, "MODEL.FPN.OUT_CHANNELS", 24).train(resume=True)
