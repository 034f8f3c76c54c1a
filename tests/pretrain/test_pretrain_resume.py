"""A run that was killed and resumed is the run that nobody disturbed."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

import torch
from detectron2.utils import comm
from pretrain_helpers import start_tool

from lambda_det.errors import InputError
from lambda_det.pretrain import get_pretrain_cfg


def metrics(folder: Path) -> list[dict[str, float]]:
    """What was measured, without the clock's part."""
    lines = (folder / "metrics.json").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "images_per_s"}
        for line in lines
    ]


# A command that kills itself in the first epoch, behind the checkpoint of iteration 3. (Killed from
# outside, it may have ended before a busy machine lets the other process look at it.)
KILLED = """
import os, runpy, signal, sys
from lambda_det.pretrain.run import Pretrainer

step = Pretrainer.step

def killed_at_five(self, *batch):
    if self.iteration == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, *batch)

Pretrainer.step = killed_at_five
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def assert_equal_files(one: Path, other: Path) -> None:
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (one, other)
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_numbers(
    project, image_folder, finished, run_tiny, work
):
    """Exactly the same: one process on a CPU repeats itself bit by bit."""
    output = work / "run"
    process = start_tool(project, image_folder, output, launcher=("-c", KILLED))
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == -signal.SIGKILL, printed
    assert not (output / "model_final.pth").exists()
    # A file cut off in the middle of a write: neither may disturb.
    (output / "checkpoint.pth.tmp").write_bytes(b"half")
    with open(output / "metrics.json", "a") as file:
        file.write('{"iteration": 99, "loss"')

    run_tiny(output, resume=True)
    resumed = re.findall(r"resumed after iteration (\d+)", (output / "log.txt").read_text())
    assert len(resumed) == 1 and 3 <= int(resumed[0]) < 8
    assert metrics(output) == metrics(finished)
    assert_equal_files(output, finished)


def test_resume_in_the_middle_of_a_log_period(finished, run_tiny, work, monkeypatch):
    """Stopped right behind the file of iteration 3: half of a mean of two is in it."""
    from lambda_det.pretrain.pretrainer import Pretrainer

    class StoppedError(Exception):
        pass

    step = Pretrainer.step

    def stop_at_three(self, images, targets):
        if self.iteration == 3:
            raise StoppedError
        step(self, images, targets)

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "step", stop_at_three)
        with pytest.raises(StoppedError):
            run_tiny(work / "run")
    run_tiny(work / "run", resume=True)
    assert metrics(work / "run") == metrics(finished)
    assert_equal_files(work / "run", finished)


def test_a_finished_run_is_not_overwritten(finished, run_tiny):
    before = (finished / "checkpoint.pth").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"OUTPUT_DIR=.*--resume"):
        run_tiny(finished)
    assert (finished / "checkpoint.pth").stat().st_mtime_ns == before


def test_resuming_another_network_or_no_checkpoint_is_refused(finished, run_tiny, work):
    (work / "checkpoint.pth").symlink_to(finished / "checkpoint.pth")
    with pytest.raises(InputError, match=r"checkpoint.pth belongs to another network"):
        run_tiny(work, "MODEL.LAMBDA_RESNET.VARIANT", "se", resume=True)
    with pytest.raises(InputError, match=r"EMA_DECAY=0.0: .* with an average"):
        run_tiny(work, "PRETRAIN.EMA_DECAY", 0.0, resume=True)
    (work / "checkpoint.pth").unlink()
    (work / "checkpoint.pth").write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"--resume: .*checkpoint.pth is not a checkpoint"):
        run_tiny(work, resume=True)


@pytest.mark.parametrize("spoilt", ["the loss is nan", "weights are not finite"])
def test_a_diverged_run_keeps_the_checkpoint_from_before(spoilt, run_tiny, work, monkeypatch):
    """Spoilt in iteration 4, the epoch's last, which writes a file and no line of the log."""
    from lambda_det.pretrain.pretrainer import Pretrainer

    step = Pretrainer.step

    def spoil_the_fourth(self, images, targets):
        step(self, images, targets)
        if self.iteration == 4 and "loss" in spoilt:
            self._loss_sum.fill_(float("nan"))
        elif self.iteration == 4:
            self.bare_model.linear.bias.data[0] = float("inf")

    monkeypatch.setattr(Pretrainer, "step", spoil_the_fourth)
    with pytest.raises(InputError, match=rf"^{spoilt} around iteration 4: .*LR_PER_256"):
        run_tiny(work, "PRETRAIN.LOG_PERIOD", 100)
    content = torch.load(work / "checkpoint.pth", weights_only=True)
    assert content["training"]["iteration"] == 3


def test_every_process_gets_its_part_of_the_loss(tmp_path, monkeypatch):
    """The first of two processes saves: its losses add up to 3, the other's to 5."""
    from lambda_det.pretrain import pretrainer as module

    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(module, "sum_over_processes", lambda values: values.add_(5))
    cfg = get_pretrain_cfg()
    cfg.OUTPUT_DIR, cfg.PRETRAIN.CHECKPOINT_PERIOD = str(tmp_path), 1
    trainer = module.Pretrainer.__new__(module.Pretrainer)
    trainer.cfg, trainer.ema, trainer.bare_model = cfg, None, torch.nn.Linear(2, 3)
    trainer.data = SimpleNamespace(train=[None] * 9, classes=["ape"])
    trainer.optimizer = torch.optim.SGD(trainer.bare_model.parameters(), lr=0.1)
    trainer.iteration, trainer.per_epoch, trainer.max_iter = 1, 10, 20
    trainer._loss_sum, trainer._loss_count = torch.tensor(3.0), 1
    trainer._after_step()
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["training"]
    assert (state["loss_sum"], state["loss_count"], state["processes"]) == (4, 1, 2)
    assert trainer._loss_sum.item() == 3  # it goes on with its own


def test_another_number_of_processes_is_said(finished, run_tiny, work):
    content = torch.load(finished / "checkpoint.pth", weights_only=True)
    assert content["training"]["processes"] == 1
    content["training"]["processes"] = 2
    torch.save(content, work / "checkpoint.pth")
    run_tiny(work, resume=True)
    assert "1 processes instead of 2" in (work / "log.txt").read_text()
