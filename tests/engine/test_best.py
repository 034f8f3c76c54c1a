"""The checkpoint of the best evaluation."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from detectron2.data import MetadataCatalog
from torch import nn

from lambda_det.engine.checkpointing import RunCheckpointer
from lambda_det.engine.evaluation import BestWeights, check_best_metric
from lambda_det.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def rated(*values: float):
    """An evaluation that gives these, in their order."""
    left = list(values)
    return lambda model: {"bbox": {"AP": 0.0, "AP50": left.pop(0)}}


def content(folder) -> dict:
    return torch.load(folder / "model_best.pth", weights_only=True)


def test_a_run_and_its_resume(make_training, tmp_path, log) -> None:
    keys = (
        "TEST.BEST_METRIC", "bbox/AP50", "TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 1,
        "DATASETS.TEST", "('coco_folder_val2017',)", "SOLVER.EMA_DECAY", 0.5,
        "DATALOADER.NUM_WORKERS", 0,
    )  # fmt: skip
    evaluate = rated(math.nan, 30.0, 20.0)
    training = make_training(tmp_path, *keys, "SOLVER.MAX_ITER", 3, evaluate=evaluate)
    training.train()
    assert "the evaluation has no bbox/AP50" in log.text
    best = content(tmp_path)
    assert (best["iteration"], best["metric"], best["value"]) == (1, "bbox/AP50", 30.0)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "model_0000002.pth", "model_best.pth", "model_final.pth", "model_final_ema.pth",
    ]  # fmt: skip
    # Weights as evaluated: the average, which is between the raw ones before and behind.
    assert not torch.equal(
        best["model"]["backbone.fpn_lateral4.weight"],
        training.parts.model.state_dict()["backbone.fpn_lateral4.weight"],
    )
    # Resumed, it knows what the checkpoint before that evaluation does not.
    for values, iteration in (([25.0], 1), ([31.0], 3)):
        folder = tmp_path / f"again{iteration}"
        folder.mkdir()
        for name in ("model_0000002.pth", "model_best.pth"):
            shutil.copy(tmp_path / name, folder)
        (folder / "last_checkpoint").write_text("model_0000002.pth")
        again = make_training(folder, *keys, "SOLVER.MAX_ITER", 4, evaluate=rated(*values))
        again.train(resume=True)
        assert content(folder)["iteration"] == iteration
    assert "bbox/AP50 31.00 is the best (30.00 before)" in log.text


def test_the_metric_of_the_first_set_or_of_a_named_one(tmp_path) -> None:
    checkpointer = RunCheckpointer(nn.Linear(1, 1), str(tmp_path))
    one = {"segm": {"AP": 1.0}}
    both = {"a": one, "b/c": {"segm": {"AP": 2.0, "AP-x/y": 3.0}}}
    for metric, results, value in (
        ("segm/AP", both, 1), ("b/c/segm/AP", both, 2), ("b/c/segm/AP-x/y", both, 3),
        ("segm/AP", one, 1), ("a/segm/AP", one, 1), ("segm/AP", {"AP": 5.0, "segm/AP": 6.0}, 6),
        ("AP", {"AP": 7.0}, 7),
    ):  # fmt: skip
        BestWeights(metric, checkpointer).offer(results, 7)
        assert content(tmp_path)["value"] == value
    other = RunCheckpointer(nn.Linear(1, 1), str(tmp_path / "none"))
    BestWeights("", other).offer(one, 0)
    BestWeights("segm/AP", other).offer({}, 0)
    assert not (tmp_path / "none").exists()


def test_what_a_file_says_is_taken_up_or_said_to_be_lost(tmp_path, log) -> None:
    checkpointer = RunCheckpointer(nn.Linear(1, 1), str(tmp_path))
    first = BestWeights("bbox/AP", checkpointer)
    first.resume()
    first.offer({"bbox": {"AP": 5.0}}, 1)
    BestWeights("bbox/AP50", checkpointer).resume()
    assert "is the best by bbox/AP, TEST.BEST_METRIC is bbox/AP50 now" in log.text
    (tmp_path / "model_best.pth").write_bytes(b"no checkpoint")
    again = BestWeights("bbox/AP", checkpointer)
    again.resume()
    assert "the best value so far is lost" in log.text
    again.offer({"bbox": {"AP": 1.0}}, 2)
    assert content(tmp_path)["value"] == 1.0


def test_metrics_that_no_evaluation_gives_are_refused() -> None:
    MetadataCatalog.get("best_named").thing_classes = ["cat", "dog"]
    sets = ("best_named", "b")
    for metric in ("", "segm/AP", "bbox/ARl", "best_named/bbox/AP75", "segm/AP-dog", "b/bbox/AP"):
        check_best_metric(metric, sets, ("bbox", "segm"))
    wrong = ("AP", "segm/AP99", "segm/", "keypoints/AP", "other/segm/AP", "segm/AP-cow", "bbox/ap")
    for metric in wrong:
        with pytest.raises(InputError, match=r"^TEST\.BEST_METRIC=.*bbox, segm.*AP50.*best_named"):
            check_best_metric(metric, sets, ("bbox", "segm"))
    with pytest.raises(InputError, match="expected one of bbox, a '/'"):
        check_best_metric("segm/AP", sets[:1], ("bbox",))
    with pytest.raises(InputError, match=r"DATASETS\.TEST is empty"):
        check_best_metric("segm/AP", (), ("bbox", "segm"))
