"""A COCO-layout folder becomes a dataset, named in a config by its path."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from data_helpers import TRAIN, VAL
from detectron2.data import DatasetCatalog, MetadataCatalog

from lambda_det.data import configure_datasets, register_coco_folder
from lambda_det.data.reading import coco_json
from lambda_det.errors import InputError


def test_register(shapes: Path):
    name = register_coco_folder(str(shapes), "train2017")
    assert name == TRAIN
    metadata = MetadataCatalog.get(name)
    assert metadata.json_file == str(shapes / "annotations" / "instances_train2017.json")
    assert metadata.image_root == str(shapes / "train2017")
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["disc", "box", "triangle", "ring"]
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1, 9: 2, 12: 3}
    dicts = DatasetCatalog.get(name)
    assert len(dicts) == 48
    assert {a["category_id"] for d in dicts for a in d["annotations"]} == {0, 1, 2, 3}
    assert all(os.path.isfile(d["file_name"]) for d in dicts)


def test_register_again_for_another_root(shapes: Path, write_folder, small_content: dict):
    register_coco_folder(str(shapes), "train2017")
    register_coco_folder(str(write_folder(train2017=small_content)), "train2017")
    metadata = MetadataCatalog.get(TRAIN)
    assert metadata.thing_classes == ["three", "seven"]  # sorted by id, not by place in the json
    assert [a["category_id"] for d in DatasetCatalog.get(TRAIN) for a in d["annotations"]] == [1, 0]


def test_configure(shapes: Path, make_cfg, caplog: pytest.LogCaptureFixture):
    cfg = make_cfg(shapes, ("coco_2017_train",), ("coco_2017_val",))
    with caplog.at_level(logging.INFO, logger="lambda_det"):
        configure_datasets(cfg)
    assert cfg.DATASETS.TRAIN == (TRAIN,)
    assert cfg.DATASETS.TEST == (VAL,)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 4
    assert sum("4 classes" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("names", [("train2017", "val2017"), (TRAIN, VAL)])
def test_names_of_the_folder(shapes: Path, make_cfg, names: tuple[str, str]):
    cfg = make_cfg(shapes, names[:1], names[1:])
    configure_datasets(cfg)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((TRAIN,), (VAL,))


def test_configure_again_changes_nothing(
    shapes: Path, make_cfg, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.chdir(shapes.parent)
    cfg = make_cfg("shapes", ("coco_2017_train",), ("coco_2017_val",))
    configure_datasets(cfg)
    assert str(shapes) == cfg.DATASETS.COCO_FOLDER
    dumped = tmp_path / "config.yaml"
    dumped.write_text(cfg.dump())
    again = make_cfg()
    again.merge_from_file(str(dumped))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="lambda_det"):
        configure_datasets(again)
    assert again.DATASETS == cfg.DATASETS
    assert again.MODEL.ROI_HEADS == cfg.MODEL.ROI_HEADS
    once = cfg.clone()
    configure_datasets(cfg)
    assert cfg == once
    assert not caplog.records


def test_key_wins_over_environment_variable(shapes: Path, make_cfg, monkeypatch):
    for variable, key in ((str(shapes), ""), ("/nowhere", shapes)):
        monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", variable)
        cfg = make_cfg(key, (), ("coco_2017_val",))
        configure_datasets(cfg)
        assert cfg.DATASETS.TEST == (VAL,) and str(shapes) == cfg.DATASETS.COCO_FOLDER


def test_evaluation_needs_no_training_set(write_folder, small_content: dict, make_cfg):
    root = write_folder(val2017=small_content)
    cfg = make_cfg(root, ("coco_2017_train",), ("coco_2017_val",))
    with pytest.raises(InputError, match=r"instances_train2017\.json"):
        configure_datasets(cfg.clone())
    configure_datasets(cfg, for_training=False)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("coco_2017_train",), (VAL,))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    unknown = make_cfg(root, ("gone",), ("val2017",))
    configure_datasets(unknown, for_training=False)
    assert unknown.DATASETS.TRAIN == ("gone",)


def test_json_is_parsed_once(write_folder, small_content: dict, make_cfg, monkeypatch):
    root = write_folder(train2017=small_content)
    parsed = []
    original = coco_json.read_json
    monkeypatch.setattr(
        coco_json, "read_json", lambda path, **more: parsed.append(path) or original(path, **more)
    )
    for _ in range(2):
        configure_datasets(make_cfg(root, ("train2017",), ("train2017",)))
    assert len(parsed) == 1
    path = root / "annotations" / "instances_train2017.json"
    small_content["categories"].append({"id": 9, "name": "nine"})
    path.write_text(json.dumps(small_content))
    cfg = make_cfg(root, ("train2017",))
    configure_datasets(cfg)
    assert len(parsed) == 2
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3


def test_real_coco(coco_tiny: Path, make_cfg):
    cfg = make_cfg(coco_tiny, ("coco_2017_train",), ("coco_2017_val",))
    configure_datasets(cfg)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80
    assert len(DatasetCatalog.get(TRAIN)) == 50
    assert MetadataCatalog.get(TRAIN).thing_dataset_id_to_contiguous_id[90] == 79
