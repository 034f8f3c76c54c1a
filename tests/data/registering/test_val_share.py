"""A folder without a validation split is divided by DATASETS.VAL_SHARE."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from data_helpers import refusal
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from lambda_det.data import configure_datasets
from lambda_det.data.registering.coco_folder import share_of
from lambda_det.errors import InputError
from lambda_det.evaluation import CocoMetricsEvaluator


@pytest.fixture
def many(export, small_content: dict) -> Path:
    """A Label Studio export of twenty images with one object each."""
    image, annotation = small_content["images"][0], small_content["annotations"][0]
    small_content["images"] = [{**image, "id": i, "file_name": f"{i}.jpg"} for i in range(20)]
    small_content["annotations"] = [{**annotation, "id": i, "image_id": i} for i in range(20)]
    return export("result.json", "images")


def test_a_single_split_is_for_training(many: Path, make_cfg):
    configure_datasets(make_cfg(many, ("coco_2017_train",)))
    text = refusal(make_cfg(many, ("coco_2017_train",), ("coco_2017_val",)))
    assert f"{many} (Label Studio) has no validation split; it has train" in text
    assert "DATASETS.VAL_SHARE 0.1" in text
    assert "DATASETS.VAL_SHARE" in refusal(make_cfg(many, (), ("coco_folder_train_share",)))


def test_a_single_split_for_validation_is_not_for_training(export, make_cfg):
    root = export("val2017/_annotations.coco.json", "val2017")
    configure_datasets(make_cfg(root, (), ("coco_2017_val",)))
    text = refusal(make_cfg(root, ("coco_2017_train",)))
    assert text.endswith(f"{root} (Roboflow) has no training split; it has val2017")


def test_a_share_for_validation(many: Path, make_cfg, tmp_path: Path):
    cfg = make_cfg(many, ("coco_2017_train",), ("coco_2017_val",))
    cfg.DATASETS.VAL_SHARE = 0.25
    configure_datasets(cfg)
    assert cfg.DATASETS.TRAIN == ("coco_folder_train_rest",)
    assert cfg.DATASETS.TEST == ("coco_folder_train_share",)
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    ids = [[record["image_id"] for record in DatasetCatalog.get(name)] for name in names]
    assert len(ids[1]) == 5 and sorted(ids[0] + ids[1]) == list(range(20))
    once = cfg.clone()
    configure_datasets(cfg)
    assert cfg == once
    whole = make_cfg(many, (), ("train",))
    configure_datasets(whole)
    assert len(DatasetCatalog.get(whole.DATASETS.TEST[0])) == 20


def test_a_share_is_judged_on_its_own_images(many: Path, make_cfg, tmp_path: Path):
    cfg = make_cfg(many, ("coco_2017_train",), ("coco_2017_val",))
    cfg.DATASETS.VAL_SHARE = 0.25
    configure_datasets(cfg)
    (name,) = cfg.DATASETS.TEST
    records = DatasetCatalog.get(name)
    evaluator = CocoMetricsEvaluator(name, ("bbox",), str(tmp_path / "found"))
    evaluator.reset()
    for record in records:
        found = Instances((30, 40))
        found.pred_boxes = Boxes(torch.tensor([[4.0, 6.0, 14.0, 14.0]]))
        found.scores, found.pred_classes = torch.ones(1), torch.ones(1, dtype=torch.int64)
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    assert MetadataCatalog.get(name).json_file == str(many / "result.json")


def test_a_share_follows_from_the_ids_alone():
    rest, share = share_of(range(1000), 0.1)
    assert len(share) == 100 and rest | share == set(range(1000)) and not rest & share
    assert share_of(reversed(range(1000)), 0.1) == (rest, share)
    assert sorted(share)[:5] == [39, 49, 51, 55, 65]
    assert len(share & share_of(range(1050), 0.1)[1]) > 85  # most stay when images are added
    assert sum(share) / 100 == pytest.approx(500, abs=100)
    assert share_of(["a", "b"], 0.001)[1] and share_of(["a", "b"], 0.999)[0]
    with pytest.raises(InputError, match="1 image cannot be divided"):
        share_of([7], 0.5)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.1, "has a validation split (valid), so that no other is made; set it to 0"),
        (1.0, "DATASETS.VAL_SHARE=1.0: expected a number from 0 to below 1"),
        (-0.1, "DATASETS.VAL_SHARE=-0.1: expected a number"),
        (float("nan"), "DATASETS.VAL_SHARE=nan: expected a number"),
    ],
)
def test_a_share_that_makes_no_sense(export, make_cfg, share: float, text: str):
    root = export("train/_annotations.coco.json", "train")
    export("valid/_annotations.coco.json", "valid")
    cfg = make_cfg(root, ("coco_2017_train",), ("coco_2017_val",))
    cfg.DATASETS.VAL_SHARE = share
    assert text in refusal(cfg)


def test_a_share_that_nothing_uses(many: Path, make_cfg):
    cfg = make_cfg(many, ("train",))
    cfg.DATASETS.VAL_SHARE = 0.1
    text = refusal(cfg)
    assert "DATASETS.VAL_SHARE=0.1 divides coco_2017_train and coco_2017_val" in text
    assert text.endswith("none of which is among the datasets coco_folder_train")


def test_a_share_beside_a_test_split(export, make_cfg, many: Path):
    content = json.loads((many / "result.json").read_text())
    for image in content["images"]:
        image["file_name"] = os.path.basename(image["file_name"])
    root = many.parent / "other"
    (many / "images").rename(many / "train")
    (many / "result.json").rename(many / "train" / "_annotations.coco.json")
    export("test/_annotations.coco.json", "test", content=content)
    many.rename(root)
    cfg = make_cfg(root, ("coco_2017_train",), ("coco_2017_val", "test"))
    assert "DATASETS.VAL_SHARE 0.1" in refusal(cfg)
    cfg.DATASETS.VAL_SHARE = 0.1
    configure_datasets(cfg)
    assert cfg.DATASETS.TEST == ("coco_folder_train_share", "coco_folder_test")
    assert [len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TEST] == [2, 20]
