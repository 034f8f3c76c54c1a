"""A run that was killed and resumed is the run that nobody disturbed."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

import torch
from pretrain_helpers import arguments, start_tool

from lambda_det.engine.interruption import TrainingInterrupted
from lambda_det.errors import InputError

pytestmark = pytest.mark.slow  # builds or trains whole networks


def metrics(folder: Path) -> list[dict[str, float]]:
    """What was measured, without the times."""
    lines = (folder / "metrics.json").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if "time" not in name}
        for line in lines
    ]


# A command that kills itself in the first epoch, after the checkpoint of iteration 3. (Killed from
# outside, it may have ended before a busy machine lets the other process look at it.)
KILLED = """
import os, runpy, signal, sys
from lambda_det.pretrain.classifier import Classifier

forward, calls = Classifier.forward, []

def killed_at_five(self, batch):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, batch)

Classifier.forward = killed_at_five
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def weights(folder: Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["model"]


def assert_equal_files(one: Path, other: Path) -> None:
    for name in ("model_final.pth", "model_final_ema.pth", "model_best.pth"):
        first, second = (weights(folder, name) for folder in (one, other))
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            assert torch.equal(tensor, second[key]), key


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
    (output / "model_0000004.pth.tmp").write_bytes(b"half")
    with open(output / "metrics.json", "a") as file:
        file.write('{"iteration": 99, "loss"')

    run_tiny(output, resume=True)
    resumed = re.findall(
        r"resumed from .*, after iteration (\d+)", (output / "log.txt").read_text()
    )
    assert resumed == ["3"]
    assert metrics(output) == metrics(finished)
    assert_equal_files(output, finished)
    names = {path.name for path in output.glob("model_0*")}
    assert names == {"model_0000002.pth", "model_0000005.pth"}


def test_a_signal_saves_and_says_how_to_go_on(finished, run_tiny, work, monkeypatch):
    from lambda_det.pretrain.classifier import Classifier

    forward, calls = Classifier.forward, []

    def stop_at_two(self, batch):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, batch)

    with monkeypatch.context() as patch, pytest.raises(TrainingInterrupted):
        patch.setattr(Classifier, "forward", stop_at_two)
        run_tiny(work / "run")
    log = (work / "run" / "log.txt").read_text()
    assert (
        "after iteration 2 of 8, which is saved; to go on: python tools/pretrain.py --data" in log
    )
    run_tiny(work / "run", resume=True)
    assert_equal_files(work / "run", finished)


def test_a_finished_run_is_not_overwritten(finished, run_tiny):
    before = (finished / "model_final.pth").stat().st_mtime_ns
    with pytest.raises(InputError, match=r"OUTPUT_DIR=.*--resume"):
        run_tiny(finished)
    assert (finished / "model_final.pth").stat().st_mtime_ns == before


def test_resuming_another_network_is_refused(finished, run_tiny, work):
    (work / "model_final.pth").symlink_to(finished / "model_final.pth")
    (work / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(InputError, match=r"--resume: .*model_final.pth is of another training"):
        run_tiny(work, "MODEL.LAMBDA_RESNET.VARIANT", "se", resume=True)


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_from_before(run_tiny, work, monkeypatch):
    from lambda_det.pretrain.classifier import Classifier

    forward, calls = Classifier.forward, []

    def spoil_the_fifth(self, batch):
        calls.append(1)
        losses = forward(self, batch)
        return {"loss": losses["loss"] * float("nan")} if len(calls) == 5 else losses

    monkeypatch.setattr(Classifier, "forward", spoil_the_fifth)
    line = r"^iteration 4: the loss is not finite \(loss nan\) on this batch"
    with pytest.raises(FloatingPointError, match=line):
        run_tiny(work)
    assert (work / "last_checkpoint").read_text() == "model_0000002.pth"
    assert all(tensor.isfinite().all() for tensor in weights(work, "model_0000002.pth").values())


def as_before_the_engine(path: Path) -> dict:
    """The content of ``checkpoint.pth`` as earlier versions wrote it, of the same run."""
    content = torch.load(path, weights_only=True)
    trainer = content["trainer"]
    average = trainer["hooks"]["WeightAverage"]["average"]
    state = trainer["hooks"]["RunState"]
    for group in trainer["_trainer"]["optimizer"]["param_groups"]:
        group["lr"] = 123.0  # of the iteration before: the rate was set when an iteration began
    training = {
        "iteration": content["iteration"] + 1,
        "images": state["images"],
        "processes": state["processes"],
        "model": content["model"],
        "ema": average,
        "optimizer": trainer["_trainer"]["optimizer"],
        "loss_sum": 2.5,
        "loss_count": 1,
    }
    metadata = content["metadata"] | {"config": state["config"], "iteration": 6, "averaged": True}
    return {"model": average, "metadata": metadata, "training": training}


def test_a_checkpoint_of_an_earlier_version_is_continued(finished, run_tiny, work):
    torch.save(as_before_the_engine(finished / "model_0000005.pth"), work / "checkpoint.pth")
    with pytest.raises(InputError, match=r"OUTPUT_DIR=.*--resume"):
        run_tiny(work)
    run_tiny(work, resume=True)
    assert "after iteration 6" in (work / "log.txt").read_text()
    assert_equal_files(work, finished)


@pytest.mark.parametrize("earlier", [False, True])
def test_other_classes_are_refused(finished, image_folder, project, work, earlier):
    from lambda_det.pretrain import pretrain

    data = shutil.copytree(image_folder, work / "data")
    for split in ("train", "val"):
        (data / split / "bee").rename(data / split / "zebra")
    output = work / "run"
    output.mkdir()
    if earlier:
        torch.save(as_before_the_engine(finished / "model_0000005.pth"), output / "checkpoint.pth")
    else:
        shutil.copy(finished / "model_0000005.pth", output)
        (output / "last_checkpoint").write_text("model_0000005.pth")
    line = r"^--resume: .* is of another training \(3 classes, first 'ape'; .* 3, first 'zebra'\)$"
    with pytest.raises(InputError, match=line):
        pretrain(arguments(project, data, output, resume=True))


def test_what_is_no_checkpoint_is_refused(run_tiny, work):
    (work / "checkpoint.pth").write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"--resume: .*checkpoint.pth is not a checkpoint"):
        run_tiny(work, resume=True)


def test_another_number_of_processes_is_said(finished, run_tiny, work):
    content = torch.load(finished / "model_0000005.pth", weights_only=True)
    state = content["trainer"]["hooks"]["RunState"]
    assert state["processes"] == 1
    state["processes"] = 2
    torch.save(content, work / "model_0000005.pth")
    (work / "last_checkpoint").write_text("model_0000005.pth")
    run_tiny(work, resume=True)
    assert "1 processes instead of 2" in (work / "log.txt").read_text()
