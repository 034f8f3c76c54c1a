"""Dataset names without a folder: detectron2's own, registered ones, and unknown ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from data_helpers import VAL, single_line
from detectron2.data import DatasetCatalog, MetadataCatalog

from lambda_det.data import configure_datasets
from lambda_det.errors import InputError


def test_stock_name_without_files(make_cfg):
    with pytest.raises(InputError, match="DETECTRON2_DATASETS") as error:
        configure_datasets(make_cfg("", ("coco_2017_train",)))
    text = single_line(error)
    assert MetadataCatalog.get("coco_2017_train").json_file in text
    assert "DATASETS.COCO_FOLDER" in text


def test_folder_name_without_folder(make_cfg):
    with pytest.raises(InputError, match=r"DATASETS\.COCO_FOLDER.*LAMBDA_DET_COCO_FOLDER"):
        configure_datasets(make_cfg("", (), (VAL,)))


@pytest.mark.parametrize("with_folder", [False, True])
def test_unknown_name(shapes: Path, make_cfg, with_folder: bool):
    with pytest.raises(InputError, match=r"unknown dataset 'coco_2071_val'") as error:
        configure_datasets(make_cfg(shapes if with_folder else "", (), ("coco_2071_val",)))
    text = single_line(error)
    assert "coco_2017_val" in text and "DATASETS.COCO_FOLDER" in text
    assert ("train2017, val2017" in text) == with_folder
    assert "minival" not in text  # detectron2's own are not listed


def test_lvis_without_its_package(make_cfg, tmp_path: Path, monkeypatch):
    json_file = tmp_path / "lvis_v1_train.json"
    json_file.write_text("{}")
    metadata = MetadataCatalog.get("lvis_v1_train")
    monkeypatch.setitem(metadata.__dict__, "json_file", str(json_file))
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(InputError, match=r"'lvis_v1_train' is read by .*: pip install lvis$"):
        configure_datasets(make_cfg("", ("lvis_v1_train",)))


@pytest.fixture
def registered(write_folder, small_content: dict):
    """A dataset that a user has registered with detectron2 in the usual way."""
    from detectron2.data.datasets import register_coco_instances

    root = write_folder(mine=small_content)
    name = "test_coco_folder_registered"
    register_coco_instances(
        name, {}, str(root / "annotations" / "instances_mine.json"), str(root / "mine")
    )
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("with_folder", [False, True])
def test_registered_dataset(registered: str, shapes: Path, make_cfg, with_folder: bool):
    cfg = make_cfg(shapes if with_folder else "", (registered,), (registered,))
    configure_datasets(cfg)
    assert (registered,) == cfg.DATASETS.TRAIN
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert len(DatasetCatalog.get(registered)) == 2


@pytest.fixture
def stock_coco(write_folder, small_content: dict, monkeypatch):
    """coco_2017_val with existing files, as under DETECTRON2_DATASETS."""
    root = write_folder(val2017=small_content)
    metadata = MetadataCatalog.get("coco_2017_val")
    json_file = root / "annotations" / "instances_val2017.json"
    monkeypatch.setitem(metadata.__dict__, "json_file", str(json_file))
    monkeypatch.setitem(metadata.__dict__, "image_root", str(root / "val2017"))
    return json_file


def test_stock_set_with_cocos_classes(stock_coco: Path, small_content: dict, make_cfg):
    ids = MetadataCatalog.get("coco_2017_val").thing_dataset_id_to_contiguous_id
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    small_content["categories"] = [{"id": k, "name": names[v]} for k, v in ids.items()]
    stock_coco.write_text(json.dumps(small_content))
    cfg = make_cfg("", (), ("coco_2017_val",))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    configure_datasets(cfg)
    assert cfg.DATASETS.TEST == ("coco_2017_val",)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 80


def test_stock_set_with_other_classes(stock_coco: Path, make_cfg):
    with pytest.raises(InputError, match=r"2 categories that are not COCO's 80"):
        configure_datasets(make_cfg("", (), ("coco_2017_val",)))
