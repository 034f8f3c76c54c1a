"""Image files that cannot be used: before the first iteration, in it, in an evaluation."""

from __future__ import annotations

import shutil
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from at_iteration import At
from checkpoint_differences import content, differences, ignoring_folder
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tiny_detector import CONFIG, TINY
from torch import nn
from torch.multiprocessing import ProcessRaisedException

from lambda_det.configs import load_config
from lambda_det.data import generate_shapes
from lambda_det.engine import parts_from_cfg, parts_from_lazy, run
from lambda_det.engine.hooks import PreciseBN
from lambda_det.engine.launch import launch
from lambda_det.engine.lazy_config import load_lazy_config
from lambda_det.errors import InputError, one_line

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
VAL = ("DATASETS.TEST", "('coco_2017_val',)", "DATALOADER.NUM_WORKERS", 0)
PERIODS = ("SOLVER.CHECKPOINT_PERIOD", 100, "TEST.EVAL_PERIOD", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset that a test may spoil."""
    generate_shapes(tmp_path / "shapes", num_train=6, num_val=3, seed=0)
    return tmp_path / "shapes"


@pytest.fixture
def begin(make_training, folder: Path, tmp_path: Path):
    """(name of OUTPUT_DIR, KEY, VALUE, …) -> a training on that dataset, not yet begun."""

    def make(name: str, *words: object):
        return make_training(tmp_path / name, "DATASETS.COCO_FOLDER", folder, *VAL, *words)

    return make


def spoil(folder: Path, count: int = 1) -> None:
    """Copy the first images of a split, and cut them."""
    shutil.copytree(folder, folder.with_suffix(".whole"), dirs_exist_ok=True)
    for path in sorted(folder.iterdir())[:count]:
        path.write_bytes(path.read_bytes()[:300])


def mend(folder: Path) -> None:
    shutil.copytree(folder.with_suffix(".whole"), folder, dirs_exist_ok=True)


@pytest.mark.parametrize(("split", "key"), [("train2017", "TRAIN"), ("val2017", "TEST")])
def test_both_sets_are_checked_before_the_first_iteration(split, key, begin, folder: Path) -> None:
    spoil(folder / split)
    with pytest.raises(InputError, match=rf"DATASETS\.{key} .* 1 of the \d image files cannot be"):
        begin("run")


@pytest.mark.parametrize(
    ("split", "place"),
    [("train2017", "dataloader.train.dataset.names"), ("val2017", "dataloader.test.dataset.names")],
)
def test_those_of_a_lazy_config_too(split: str, place: str, folder: Path, tmp_path: Path) -> None:
    words = [
        f"train.coco_folder={folder}", "model.backbone.bottom_up.depth=26",
        f"train.output_dir={tmp_path}",
    ]  # fmt: skip
    spoil(folder / split)
    name = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"
    with pytest.raises(InputError) as error:
        parts_from_lazy(load_lazy_config(name, words))
    assert str(error.value).startswith(place) and " cannot be used; the first" in str(error.value)
    assert "(dataloader.train.skip_unreadable True leaves them out)" in str(error.value)
    words.append("dataloader.train.skip_unreadable=True")
    parts, _ = parts_from_lazy(load_lazy_config(name, words))
    assert parts.train_loader.num_images == (4 if split == "train2017" else 5)


def test_with_the_key_they_are_left_out_and_counted(begin, folder: Path, tmp_path, log) -> None:
    for split in ("train2017", "val2017"):
        spoil(folder / split, 2)
    training = begin("run", *PERIODS, "DATALOADER.SKIP_UNREADABLE", True, "SOLVER.MAX_ITER", 2)
    assert training.parts.train_loader.num_images == 3
    lines = [line for line in log.messages if "are left out" in line]
    assert len(lines) == 2 and "2 of the 5 image files" in lines[0]
    assert "2 of the 3 image files" in lines[1] and "count as not found" in lines[1]
    assert "AP" in training.train()["bbox"]
    assert len([line for line in log.messages if "are left out" in line]) == 2


@pytest.fixture
def undisturbed(begin, tmp_path: Path) -> Path:
    begin("undisturbed", *PERIODS).train()
    return tmp_path / "undisturbed"


def test_an_unreadable_test_image_at_the_first_evaluation_leaves_a_checkpoint(
    undisturbed, begin, folder: Path, tmp_path: Path, log
) -> None:
    training, run = begin("run", *PERIODS), tmp_path / "run"
    spoil(folder / "val2017")  # after the check of all files
    with pytest.raises(InputError, match="1 of the 3 image files cannot be used"):
        training.train()
    assert (run / "last_checkpoint").read_text() == "model_0000001.pth"
    assert content(run, "model_0000001.pth")["iteration"] == 1
    (line,) = [line for line in log.messages if "an error has ended the training" in line]
    assert "after iteration 2 of 4, which is saved; to go on once its cause is mended" in line
    mend(folder / "val2017")
    begin("run", *PERIODS).train(resume=True)
    assert ignoring_folder(differences(content(run), content(undisturbed))) == []


@pytest.mark.parametrize("iteration", [0, 1, 3])
def test_an_unreadable_training_image_leaves_a_checkpoint_of_the_iteration_before(
    iteration: int, undisturbed, begin, folder: Path, tmp_path: Path
) -> None:
    training, run = begin("run", *PERIODS), tmp_path / "run"
    with pytest.raises(InputError, match="cannot be read"):
        training.train(hooks=[At(iteration, lambda: spoil(folder / "train2017", 6))])
    saved = sorted(path.name for path in run.glob("*.pth"))
    assert saved == ([f"model_{iteration - 1:07d}.pth"] if iteration else [])
    mend(folder / "train2017")
    begin("run", *PERIODS).train(resume=True)
    assert ignoring_folder(differences(content(run), content(undisturbed))) == []


def test_no_worker_outlives_the_error(begin, folder: Path) -> None:
    training = begin("run", "DATALOADER.NUM_WORKERS", 1)
    spoil(folder / "train2017", 6)
    with pytest.raises(InputError, match="cannot be read"):
        training.train()
    assert not active_children()


def test_an_image_that_breaks_during_the_training_is_skipped(
    begin, folder: Path, tmp_path, log
) -> None:
    training = begin("run", *PERIODS, "DATALOADER.SKIP_UNREADABLE", True)

    def break_them() -> None:
        for split in ("train2017", "val2017"):
            spoil(folder / split, 2)

    training.train(hooks=[At(1, break_them)])
    assert content(tmp_path / "run")["iteration"] == 3
    lines = [line for line in log.messages if "takes its place" in line]
    assert lines and len(lines) <= 2 and "cannot be read" in lines[0]


def test_a_disk_that_is_full_is_one_line(begin, monkeypatch, log) -> None:
    """The checkpoint that was the error is not what the error is replaced by."""
    training = begin("run", "SOLVER.CHECKPOINT_PERIOD", 1)

    def refuse(*_: object) -> None:
        raise InputError("OUTPUT_DIR: cannot be written (No space left on device)")

    monkeypatch.setattr("lambda_det.engine.checkpointing.save_atomically", refuse)
    with pytest.raises(InputError, match="No space left"):
        training.train()
    assert not [line for line in log.messages if "an error has ended" in line]


class _BreaksInProcess1:
    def __init__(self, loader) -> None:
        self._loader = loader

    def __iter__(self):
        for number, batch in enumerate(self._loader):
            if number == 2 and comm.get_rank() == 1:
                raise InputError("image a.png cannot be read")
            yield batch


def _train_in_two(config: str, words: list[str]) -> None:
    parts, options = parts_from_cfg(load_config(config, words))
    parts.train_loader, parts.evaluate = _BreaksInProcess1(parts.train_loader), None
    run(parts, options)


@pytest.mark.slow
def test_process_0_saves_what_another_cannot_go_on_with(project, folder: Path, tmp_path) -> None:
    words = [
        *TINY, "DATASETS.COCO_FOLDER", str(folder), "OUTPUT_DIR", str(tmp_path / "run"),
        "MODEL.LAMBDA_RESNET.DEPTH", "26", "DATALOADER.NUM_WORKERS", "0",
        "SOLVER.CHECKPOINT_PERIOD", "100", "SOLVER.MAX_ITER", "9",
    ]  # fmt: skip
    with pytest.raises(ProcessRaisedException) as error:
        launch(_train_in_two, 2, device="cpu", args=(str(project / CONFIG), words))
    assert one_line(error.value) == "image a.png cannot be read"
    assert content(tmp_path / "run", "model_0000001.pth")["iteration"] == 1


def test_an_error_in_precise_bn_leaves_the_statistics_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()

    def batches():
        yield torch.randn(2, 3, 5, 5)
        raise InputError("an image cannot be read")

    before = {name: value.clone() for name, value in model.named_buffers()}
    hook = PreciseBN(1, model, batches(), 2)
    hook.trainer = SimpleNamespace(iter=0)
    with EventStorage(), pytest.raises(InputError):
        hook.update_stats()
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
