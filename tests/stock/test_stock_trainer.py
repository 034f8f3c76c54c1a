"""detectron2's DefaultTrainer, DefaultPredictor and test-time augmentation, as they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor, DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model

from lambda_det.backbone import LambdaResNet, build_detector
from lambda_det.data import configure_datasets
from lambda_det.engine import parts_from_cfg, run

# The versions of detectron2 warn of PyTorch's calls.
pytestmark = pytest.mark.filterwarnings("ignore")
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


class StockTrainer(DefaultTrainer):
    """The one thing that detectron2 wants every project to write."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        # The keyword is one that all versions have; the fast evaluator is compiled.
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def train(cls: type, cfg, folder: Path, iterations: int, *, resume: bool = False, **more: object):
    cfg = cfg.clone()
    words = ["OUTPUT_DIR", folder, "SOLVER.MAX_ITER", iterations]
    words += [word for pair in more.items() for word in pair]
    cfg.merge_from_list([str(word) if isinstance(word, Path) else word for word in words])
    folder.mkdir(exist_ok=True)
    trainer = cls(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def cfg(stock_config, stock_datasets):
    train_set, test_set = stock_datasets
    return stock_config(
        MASK_RCNN, "DATASETS.TRAIN", f"('{train_set}',)", "DATASETS.TEST", f"('{test_set}',)"
    )


@pytest.fixture(scope="module")
def trained(cfg, tmp_path_factory) -> Path:
    """A folder in which DefaultTrainer has trained two iterations and evaluated."""
    folder = tmp_path_factory.mktemp("stock") / "run"
    trainer = train(StockTrainer, cfg, folder, 2)
    assert isinstance(trainer.model.backbone.bottom_up, LambdaResNet)
    results = trainer._last_eval_results
    assert set(results) >= {"bbox", "segm"}
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=False)["model"]
    return {name: torch.as_tensor(value) for name, value in content.items()}


def test_default_trainer_trains_checkpoints_and_evaluates(cfg, trained) -> None:
    after = weights(trained / "model_final.pth")
    assert any(name.endswith("lambda_layer.embedding") for name in after)
    assert all(value.isfinite().all() for value in after.values())
    text = (trained / "metrics.json").read_text()
    assert "total_loss" in text and (trained / "coco_instances_results.json").is_file()


def test_each_trainer_goes_on_from_the_others_checkpoint(cfg, trained, tmp_path, log) -> None:
    no_test = {"DATASETS.TEST": "()"}
    shutil.copytree(trained, tmp_path / "run")
    own = cfg.clone()
    own.merge_from_list(["OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.MAX_ITER", 3])
    own.merge_from_list(["DATASETS.TEST", "()"])
    run(*parts_from_cfg(own), resume=True)
    assert "after iteration 2" in log.text
    theirs = train(StockTrainer, cfg, tmp_path / "run", 4, resume=True, **no_test)
    assert theirs.start_iter == 3
    after = weights(tmp_path / "run" / "model_final.pth")
    counter = next(name for name in after if name.endswith("num_batches_tracked"))
    assert int(after[counter]) == 4


def test_a_folder_that_stock_scripts_do_not_read_is_said(cfg, stock_folder, log) -> None:
    cfg = cfg.clone()
    cfg.DATASETS.COCO_FOLDER = str(stock_folder)
    build_model(cfg)
    (line,) = [r.getMessage() for r in log.records if "COCO_FOLDER" in r.getMessage()]
    assert str(stock_folder) in line and "stock_train, stock_val" in line
    log.clear()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ()
    configure_datasets(cfg)
    build_model(cfg)
    assert not [r for r in log.records if "is not read" in r.getMessage()]


def test_default_predictor_gives_the_models_detections(cfg, trained, pixels: np.ndarray) -> None:
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(trained / "model_final.pth")
    predictor = DefaultPredictor(cfg)
    instances = predictor(pixels)["instances"]
    assert 0 < len(instances) <= 5 and instances.pred_masks.shape[1:] == (64, 80)
    # The same weights by hand, in a model of our own making: the file was really read.
    model = build_model(cfg).eval()
    model.load_state_dict(weights(trained / "model_final.pth"), strict=False)
    image = torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float()
    with torch.no_grad():
        expected = model([{"image": image, "height": 64, "width": 80}])[0]["instances"]
    torch.testing.assert_close(instances.scores, expected.scores)
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_keys_that_a_stock_trainer_does_not_read_are_said(cfg, log) -> None:
    build_model(cfg)
    assert not [r for r in log.records if "does not read" in r.getMessage()]
    assert "backbone: depth 26, variant 'lambda', stem 'rs', lambda layers in res4 " in log.text
    log.clear()
    cfg = cfg.clone()
    cfg.merge_from_list(["SOLVER.EMA_DECAY", 0.5, "INPUT.LSJ.ENABLED", True])
    build_model(cfg)
    (line,) = [r.getMessage() for r in log.records if "does not read" in r.getMessage()]
    assert "INPUT.LSJ.ENABLED=True, SOLVER.EMA_DECAY=0.5: use parts_from_cfg" in line
    log.clear()
    build_detector(cfg)  # as the commands of lambda_det do
    assert "does not read" not in log.text
