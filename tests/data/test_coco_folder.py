"""A COCO-layout folder becomes a dataset; a wrong one is one clear line."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from lambda_det import get_cfg
from lambda_det.data import coco_json, configure_datasets, register_coco_folder
from lambda_det.errors import InputError, one_line

TRAIN, VAL = "coco_folder_train2017", "coco_folder_val2017"


def single_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert one_line(error.value) == text
    return text


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


@pytest.mark.parametrize("layout", ["split", "images/split", "images"])
@pytest.mark.parametrize("prefix", ["instances_", ""])
def test_layouts(write_folder, small_content: dict, layout: str, prefix: str):
    root = write_folder(mine=small_content)
    images = root / "mine"
    if layout != "split":
        (root / "images").mkdir()
        images = images.rename(root / "images" / "mine")
    if layout == "images":
        for file in list(images.iterdir()):
            file.rename(root / "images" / file.name)
        images.rmdir()
    (root / "annotations" / "instances_mine.json").rename(
        root / "annotations" / f"{prefix}mine.json"
    )
    assert len(DatasetCatalog.get(register_coco_folder(str(root), "mine"))) == 2


def test_images_in_subfolders(write_folder, small_content: dict):
    root = write_folder(mine=small_content)
    (root / "mine" / "deep").mkdir()
    (root / "mine" / "b.jpg").rename(root / "mine" / "deep" / "b.jpg")
    small_content["images"][1]["file_name"] = "deep/b.jpg"
    (root / "annotations" / "instances_mine.json").write_text(json.dumps(small_content))
    dicts = DatasetCatalog.get(register_coco_folder(str(root), "mine"))
    assert os.path.isfile(dicts[1]["file_name"])


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


def test_environment_variable(shapes: Path, make_cfg, monkeypatch):
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", str(shapes))
    cfg = make_cfg("", (), ("coco_2017_val",))
    configure_datasets(cfg)
    assert cfg.DATASETS.TEST == (VAL,)
    assert str(shapes) == cfg.DATASETS.COCO_FOLDER


def test_key_wins_over_environment_variable(shapes: Path, make_cfg, monkeypatch):
    monkeypatch.setenv("LAMBDA_DET_COCO_FOLDER", "/nowhere")
    cfg = make_cfg(shapes, (), ("coco_2017_val",))
    configure_datasets(cfg)
    assert str(shapes) == cfg.DATASETS.COCO_FOLDER


def test_evaluation_needs_no_training_set(write_folder, small_content: dict, make_cfg):
    root = write_folder(val2017=small_content)
    cfg = make_cfg(root, ("coco_2017_train",), ("coco_2017_val",))
    with pytest.raises(InputError, match=r"instances_train2017\.json"):
        configure_datasets(cfg.clone())
    configure_datasets(cfg, for_training=False)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((TRAIN,), (VAL,))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    unknown = make_cfg(root, ("gone",), ("val2017",))
    configure_datasets(unknown, for_training=False)
    assert unknown.DATASETS.TRAIN == ("gone",)


def test_json_is_parsed_once(write_folder, small_content: dict, make_cfg, monkeypatch):
    root = write_folder(train2017=small_content)
    parsed = []
    original = coco_json._parse
    monkeypatch.setattr(coco_json, "_parse", lambda path: parsed.append(path) or original(path))
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


# ---- what is wrong with the json or the folder ----


def change(content: dict, path: tuple, value: object) -> None:
    *parents, last = path
    for step in parents:
        content = content[step]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("images",), None, "no list 'images'"),
        (("annotations",), {}, "no list 'annotations'"),
        (("categories",), [], "categories is empty"),
        (("images",), [], "images is empty"),
        (("images", 1, "id"), 1, "image id 1 occurs twice"),
        (("images", 0), {"id": 5}, r"images\[0\] has no file_name, height, width"),
        (("annotations", 1, "category_id"), 4, "annotation id 2 has category_id 4.*ids 3, 7"),
        (("annotations", 1, "image_id"), 77, "annotation id 2 has image_id 77"),
        (("annotations", 1, "id"), 1, "annotation id 1 occurs twice"),
        (("annotations", 0, "bbox"), [], "bbox"),
        (("annotations", 0, "bbox"), [1, 2, 3, "x"], "bbox"),
        (("annotations", 0, "ignore"), 1, "ignore"),
        (("annotations", 0), 3, r"annotations\[0\] has no id"),
        (("annotations", 0, "image_id"), [1], "wrong type"),
        (("images", 0, "file_name"), 12, "wrong type"),
        (("categories", 0, "id"), 3, "category id 3 occurs twice"),
        (("categories", 0, "id"), "7", "category id '7' is not an integer"),
        (("annotations",), [], "no annotations to train on"),
        (("annotations", 0, "segmentation"), [], "a.jpg has no segmentation.*MASK_ON"),
    ],
)
def test_wrong_json(write_folder, small_content: dict, make_cfg, path, value, text: str):
    root = write_folder(train2017=small_content)
    broken = copy.deepcopy(small_content)
    change(broken, path, value)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(broken))
    with pytest.raises(InputError, match=text) as error:
        configure_datasets(make_cfg(root, ("train2017",)))
    assert str(root / "annotations" / "instances_train2017.json") in single_line(error)


@pytest.mark.parametrize("text", ["", "{", "not json", "[1, 2]", '"text"', '{"images": [}'])
def test_not_json(write_folder, small_content: dict, text: str):
    root = write_folder(train2017=small_content)
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"not valid JSON|not in COCO format") as error:
        register_coco_folder(str(root), "train2017")
    assert str(path) in single_line(error)


def test_binary_json(write_folder, small_content: dict):
    root = write_folder(train2017=small_content)
    (root / "annotations" / "instances_train2017.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not valid JSON"):
        register_coco_folder(str(root), "train2017")


def test_missing_image(write_folder, small_content: dict):
    root = write_folder(train2017=small_content)
    (root / "train2017" / "b.jpg").unlink()
    with pytest.raises(InputError, match=r"train2017/b\.jpg.*\(1 of the 2 images") as error:
        register_coco_folder(str(root), "train2017")
    single_line(error)


def test_missing_json_names_the_splits(write_folder, small_content: dict):
    root = write_folder(train2017=small_content, extra=small_content)
    (root / "annotations" / "captions_train2017.json").write_text("{}")
    with pytest.raises(InputError, match=r"instances_val2017\.json.*: extra, train2017$") as error:
        register_coco_folder(str(root), "val2017")
    single_line(error)


def test_missing_image_folder(write_folder, small_content: dict):
    root = write_folder(train2017=small_content)
    (root / "train2017").rename(root / "elsewhere")
    with pytest.raises(InputError, match="no image directory for split 'train2017'"):
        register_coco_folder(str(root), "train2017")


def test_missing_folder(make_cfg):
    with pytest.raises(InputError, match=r"DATASETS\.COCO_FOLDER /no/such/folder"):
        configure_datasets(make_cfg("/no/such/folder", ("coco_2017_train",)))


def test_only_crowds(write_folder, small_content: dict, make_cfg):
    for annotation in small_content["annotations"]:
        annotation["iscrowd"] = 1
    root = write_folder(train2017=small_content, val2017=small_content)
    configure_datasets(make_cfg(root, (), ("val2017",)))
    with pytest.raises(InputError, match="no annotations to train on"):
        configure_datasets(make_cfg(root, ("train2017",)))


def test_rle_needs_bitmasks(shapes: Path, make_cfg):
    cfg = make_cfg(shapes, ("train2017",))
    cfg.INPUT.MASK_FORMAT = "polygon"
    with pytest.raises(InputError, match=r"INPUT\.MASK_FORMAT is 'polygon'.*'bitmask'"):
        configure_datasets(cfg)


def test_boxes_without_masks(write_folder, small_content: dict, make_cfg):
    for annotation in small_content["annotations"]:
        del annotation["segmentation"]
    cfg = make_cfg(write_folder(train2017=small_content), ("train2017",))
    cfg.MODEL.MASK_ON = False
    configure_datasets(cfg)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 2


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 7, "name": "seven"}, {"id": 3, "name": "drei"}],
        [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}, {"id": 8, "name": "eight"}],
        [{"id": 9, "name": "seven"}, {"id": 3, "name": "three"}, {"id": 7, "name": "eight"}],
    ],
)
def test_different_categories(write_folder, small_content: dict, make_cfg, categories):
    root = write_folder(
        train2017=small_content, val2017={**small_content, "categories": categories}
    )
    cfg = make_cfg(root, ("train2017",), ("val2017",))
    with pytest.raises(InputError, match="different categories") as error:
        configure_datasets(cfg)
    single_line(error)


# ---- without a folder ----


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
    with pytest.raises(InputError, match="unknown dataset 'coco_2071_val'; allowed: ") as error:
        configure_datasets(make_cfg(shapes if with_folder else "", (), ("coco_2071_val",)))
    text = single_line(error)
    assert "coco_2017_val" in text
    assert ("train2017, val2017" in text) == with_folder


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
    """coco_2017_val with files behind it, as under DETECTRON2_DATASETS."""
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


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_annotation_that_cannot_be_judged_is_found_before_the_training(
    shapes, tmp_path, key
) -> None:
    root = tmp_path / "mine"
    shutil.copytree(shapes, root)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][3][key]
    path.write_text(json.dumps(content))
    cfg = get_cfg()
    cfg.DATASETS.COCO_FOLDER = str(root)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train2017",), ("val2017",)
    with pytest.raises(InputError, match=rf"instances_val2017.*'{key}'") as caught:
        configure_datasets(cfg)
    assert "\n" not in str(caught.value)
