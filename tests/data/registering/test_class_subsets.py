"""A test set that lists a part of the classes, in a training and in an evaluation of weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from lambda_det.data import configure_datasets
from lambda_det.engine.lazy import take_datasets
from lambda_det.engine.lazy_config import load_lazy_config
from lambda_det.errors import InputError
from lambda_det.evaluation import CocoMetricsEvaluator

TRAIN, VAL = "coco_folder_train2017", "coco_folder_val2017"
FISH = [{"id": 0, "name": "fish"}, {"id": 3, "name": "fish"}, {"id": 7, "name": "tank"}]


@pytest.fixture
def fishes(small_content: dict) -> tuple[dict, dict]:
    """A training json, whose root category is called as a class is, and a test json without it."""
    train = {**small_content, "categories": FISH}
    return train, {**copy.deepcopy(small_content), "categories": FISH[:0:-1]}


def weights_of(folder: Path, num_classes: int) -> str:
    path = folder / "weights.pth"
    name = "roi_heads.box_predictor.cls_score.weight"
    torch.save({"model": {name: torch.zeros(num_classes + 1, 4)}}, path)
    return str(path)


def judged(name: str, folder: Path, entries: list[dict]) -> dict:
    evaluator = CocoMetricsEvaluator(name, ("bbox",), str(folder))
    evaluator.reset()
    evaluator._predictions = [{"image_id": 1, "instances": copy.deepcopy(entries)}]
    return evaluator.evaluate()["bbox"]


def detections(model_classes: dict[int, int]) -> list[dict]:
    """A perfect detection of each object, and one of the model's class 0 on each image."""
    found = [
        {"image_id": i, "category_id": model_classes[c], "bbox": [4, 6, 10, 8], "score": 0.9}
        for i, c in ((1, 7), (2, 3))
    ]
    return found + [{**entry, "category_id": 0, "score": 0.95} for entry in found]


def test_a_training_judges_a_part_by_the_ids_of_the_model(
    write_folder, fishes, make_cfg, tmp_path, log
):
    root = write_folder(train2017=fishes[0], val2017=fishes[1])
    cfg = make_cfg(root, ("train2017",), ("val2017",))
    configure_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == cfg.MODEL.RETINANET.NUM_CLASSES == 3
    results = judged(VAL, tmp_path, detections({3: 1, 7: 2}))
    assert results["AP"] == results["AP-fish"] == results["AP-tank"] == pytest.approx(100)
    lines = [r.getMessage() for r in log.records if "left out" in r.getMessage()]
    assert lines == [
        f"{VAL} lists 2 of the model's 3 classes: 2 of 4 detections are of the others and are left "
        "out"
    ]
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [entry["category_id"] for entry in written] == [7, 3]
    # The same set judges all classes in a training of its own.
    configure_datasets(make_cfg(root, ("val2017",), ("val2017",)))
    log.clear()
    assert judged(VAL, tmp_path, detections({3: 0, 7: 1}))["AP-tank"] == pytest.approx(100)
    assert "left out" not in log.text


def test_several_test_sets_and_the_order_of_their_names(write_folder, fishes, make_cfg):
    root = write_folder(train2017=fishes[0], val2017=fishes[1])
    cfg = make_cfg(root, (), ("val2017", "train2017"))
    configure_datasets(cfg, for_training=False)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert MetadataCatalog.get(VAL).model_category_ids == (0, 3, 7)


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 1, "name": "fish"}],
        [{"id": 3, "name": "shark"}],
        [FISH[1], {"id": 9, "name": "tank"}],
        [*FISH, {"id": 9, "name": "eel"}],
    ],
)
def test_other_pairs_stay_refused(write_folder, fishes, make_cfg, categories):
    other = {**fishes[1], "categories": categories, "annotations": []}
    root = write_folder(train2017=fishes[0], val2017=other)
    text = rf"{TRAIN}.*{VAL}.*different categories: the former has no class with \(id, name\) \("
    with pytest.raises(InputError, match=text):
        configure_datasets(make_cfg(root, ("train2017",), ("val2017",)))


def test_two_training_sets_list_the_same(write_folder, fishes, make_cfg):
    root = write_folder(train2017=fishes[0], val2017=fishes[1])
    with pytest.raises(InputError, match="different categories: class 0 has"):
        configure_datasets(make_cfg(root, ("train2017", "val2017"), ("val2017",)))


def test_an_evaluation_takes_the_classes_of_the_weights(
    write_folder, fishes, make_cfg, tmp_path, log
):
    root = write_folder(train2017=fishes[0], val2017=fishes[1])

    def configured(num_classes: int, known: int = 80):
        cfg = make_cfg(root, ("train2017",), ("val2017",))
        cfg.MODEL.WEIGHTS = weights_of(tmp_path, num_classes)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = known
        configure_datasets(cfg, for_training=False)
        return cfg

    for known in (3, 80):
        assert configured(3, known).MODEL.ROI_HEADS.NUM_CLASSES == 3
        assert f"the classes are the 3 of {TRAIN}, as in the weights" in log.text
        results = judged(VAL, tmp_path, detections({3: 1, 7: 2}))
        assert results["AP-fish"] == results["AP-tank"] == pytest.approx(100)
    log.clear()
    for number in (2, 5):  # trained on the test set's classes, or on what is not here
        assert configured(number).MODEL.ROI_HEADS.NUM_CLASSES == 2
        assert judged(VAL, tmp_path, detections({3: 0, 7: 1}))["AP-tank"] == pytest.approx(100)
    assert not [r for r in log.records if "as in the weights" in r.getMessage()]
    (root / "annotations" / "instances_train2017.json").unlink()
    assert configured(3).MODEL.ROI_HEADS.NUM_CLASSES == 2


def test_a_lazy_config_does_the_same(write_folder, fishes, tmp_path):
    root = write_folder(train2017=fishes[0], val2017=fishes[1])
    words = [
        f"train.coco_folder={root}",
        f"train.init_checkpoint={weights_of(tmp_path, 3)}",
        "dataloader.train.dataset.names=train2017",
        "dataloader.test.dataset.names=val2017",
    ]
    for for_training in (True, False):
        lazy = load_lazy_config("mask_rcnn_lambda_R_101_FPN_3x", words)
        take_datasets(lazy, for_training=for_training)
        assert lazy.model.roi_heads.num_classes == 3
        assert MetadataCatalog.get(VAL).model_category_ids == (0, 3, 7)


def test_registered_sets(write_folder, fishes, make_cfg, tmp_path):
    """detectron2's own reader sets the names as the json has them, and refuses others."""
    root = write_folder(train2017=fishes[0], val2017=fishes[1])
    names = {"fishes_train": "train2017", "fishes_val": "val2017"}
    for name, split in names.items():
        file = str(root / "annotations" / f"instances_{split}.json")
        register_coco_instances(name, {}, file, str(root / split))
    try:
        for _ in range(2):
            cfg = make_cfg("", ("fishes_train",), ("fishes_val",))
            configure_datasets(cfg)
            assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
            dicts = DatasetCatalog.get("fishes_train")
            assert [a["category_id"] for d in dicts for a in d["annotations"]] == [2, 1]
            DatasetCatalog.get("fishes_val")
            results = judged("fishes_val", tmp_path, detections({3: 1, 7: 2}))
            assert results["AP-fish"] == results["AP-tank"] == pytest.approx(100)
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
