"""The short way before a run: it finds what is wrong, and leaves no trace."""

from __future__ import annotations

import random
from collections import namedtuple

import numpy as np
import pytest
import torch

from lambda_det.data import generate_shapes
from lambda_det.engine import Trainer, sanity
from lambda_det.errors import InputError, one_line

pytestmark = [
    pytest.mark.slow,  # trainings
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
KEYS = (
    "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 0, "SOLVER.CHECKPOINT_PERIOD", 100,
    "INPUT.MIN_SIZE_TRAIN", "(32,64)",
)  # fmt: skip
TEST = ("DATASETS.TEST", "('coco_folder_val2017',)", "TEST.SANITY_IMAGES", 2)


class Unevaluated(Trainer):
    """Without the evaluation behind the last iteration."""

    def _evaluate(self) -> dict:
        return {}


def test_the_run_is_the_same(make_trainer, tmp_path, log) -> None:
    plain = make_trainer(tmp_path / "plain", *KEYS, "SOLVER.ACCUMULATE", 2)
    plain.train()
    keys = (*KEYS, *TEST, "SOLVER.ACCUMULATE", 2, "SOLVER.EMA_DECAY", 0.9)
    trainer = make_trainer(tmp_path / "run", *keys, cls=Unevaluated)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    order = trainer.data_loader.first_batch(lambda image: image["file_name"])
    statistics = [buffer.clone() for buffer in trainer.model.buffers()]
    sanity.sanity_pass(trainer)
    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert now == states
    buffers = zip(trainer.model.buffers(), statistics, strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert order == trainer.data_loader.first_batch(lambda image: image["file_name"])
    trainer.train()  # with another one
    assert log.text.count("TEST.SANITY_IMAGES 2: a checkpoint, a batch and the evaluation") == 2
    assert "box AP" not in log.text and not (tmp_path / "run" / sanity.FOLDER).exists()
    assert not (tmp_path / "run" / "inference").exists()
    ends = [torch.load(tmp_path / name / "model_final.pth") for name in ("plain", "run")]
    for name, tensor in ends[0]["model"].items():
        assert torch.equal(ends[1]["model"][name], tensor), name
    metrics = [end["trainer"]["lambda_det"]["metrics"] for end in ends]
    assert metrics[0] == metrics[1]


def test_the_batch_has_the_largest_size(make_trainer, tmp_path, monkeypatch) -> None:
    trainer = make_trainer(tmp_path, *KEYS, "TEST.SANITY_IMAGES", 1)
    (tmp_path / "sanity").mkdir()
    (tmp_path / "sanity" / "model_final.pth").write_text("of another run, in OUTPUT_DIR/sanity")
    seen = []
    forward = trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda b: seen.extend(b) or forward(b))
    sanity.sanity_pass(trainer)
    assert [min(image["image"].shape[-2:]) for image in seen] == [64, 64]
    assert (tmp_path / "sanity" / "model_final.pth").exists()


def test_a_broken_test_image_is_found_at_the_start(make_trainer, tmp_path, log) -> None:
    generate_shapes(tmp_path / "shapes", num_train=4, num_val=3, seed=0)
    images = sorted((tmp_path / "shapes/val2017").iterdir())
    whole = images[1].read_bytes()
    images[1].write_bytes(whole[:500])
    keys = (*KEYS, *TEST, "DATASETS.COCO_FOLDER", tmp_path / "shapes")
    trainer = make_trainer(tmp_path / "run", *keys, cls=Unevaluated)
    with pytest.raises(InputError) as error:
        trainer.train()
    assert images[1].name in one_line(error.value)
    assert trainer.iter == 0 and not list((tmp_path / "run").iterdir())
    assert "iter 1/" not in log.text  # there was none
    images[1].write_bytes(whole)
    images[2].write_bytes(b"")  # behind those that are looked at
    make_trainer(tmp_path / "again", *keys, cls=Unevaluated).train()


def test_a_disk_that_is_too_small_for_two_checkpoints(make_trainer, tmp_path, monkeypatch) -> None:
    trainer = make_trainer(tmp_path, *KEYS, "TEST.SANITY_IMAGES", 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(sanity.shutil, "disk_usage", lambda path: usage(10, 10, 2**20))
    with pytest.raises(InputError, match=r"^OUTPUT_DIR=.*: 1 MiB are free.*2 checkpoints of \d+"):
        trainer.train()
    assert not list(tmp_path.rglob("*.pth"))


def test_not_for_a_run_that_goes_on(make_trainer, tmp_path, monkeypatch) -> None:
    make_trainer(tmp_path, *KEYS).train()
    trainer = make_trainer(tmp_path, *KEYS, "SOLVER.MAX_ITER", 3, "TEST.SANITY_IMAGES", 1)
    trainer.resume_or_load(resume=True)
    monkeypatch.setattr("lambda_det.engine.trainer.sanity_pass", None)
    trainer.train()
