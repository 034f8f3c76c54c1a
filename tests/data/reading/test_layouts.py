"""A dataset as a tool exports it is named by its path alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from data_helpers import refusal
from detectron2.data import DatasetCatalog

from lambda_det.data import configure_datasets
from lambda_det.data.reading.file_names import image_paths
from lambda_det.data.reading.layouts import find_layout
from lambda_det.data.registering.coco_folder import register_splits

# Tool, and for each split its json, the folder of the images, and what the names begin with.
EXPORTS = {
    "COCO": {
        "train2017": ("annotations/instances_train2017.json", "train2017", ""),
        "val2017": ("annotations/instances_val2017.json", "val2017", ""),
    },
    "COCO, plain names": {"mine": ("annotations/mine.json", "mine", "")},
    "CVAT": {"default": ("annotations/instances_default.json", "images/default", "")},
    "CVAT, flat": {"default": ("annotations/instances_default.json", "images", "")},
    "CVAT, keypoints": {
        "person_keypoints_default": ("annotations/person_keypoints_default.json", "images", "")
    },
    "COCO, from CVAT": {
        "Train": ("annotations/instances_Train.json", "images/Train", ""),
        "Validation": ("annotations/instances_Validation.json", "images/Validation", ""),
    },
    "COCO, from Datumaro": {
        "train": ("annotations/instances_train.json", "images/train", ""),
        "val": ("annotations/instances_val.json", "images/val", ""),
    },
    "Roboflow": {
        "test": ("test/_annotations.coco.json", "test", ""),
        "train": ("train/_annotations.coco.json", "train", ""),
        "valid": ("valid/_annotations.coco.json", "valid", ""),
    },
    "Label Studio": {"train": ("result.json", "images", "images/")},
    "Label Studio, Windows": {"train": ("result_coco.json", "images", "images\\")},
    "FiftyOne": {"train": ("labels.json", "data", "")},
    "FiftyOne, its zoo": {
        "train": ("train/labels.json", "train/data", ""),
        "validation": ("validation/labels.json", "validation/data", ""),
    },
    "labelme": {"train": ("annotations.json", "JPEGImages", "JPEGImages/")},
    "labelme2coco": {"train": ("dataset.json", "", "")},
    "labelme2coco, its images": {"train": ("dataset.json", "images", "..\\images\\")},
    "labelme2coco, two splits": {
        "train": ("train.json", "", "C:\\labelme\\"),
        "val": ("val.json", "", ""),
    },
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_folder_as_exported(export, name: str):
    for split in EXPORTS[name].values():
        root = export(*split)
    layout = find_layout(str(root))
    assert layout.tool == name.partition(",")[0]
    assert layout.names == list(EXPORTS[name])
    for own, (json_file, images, _) in EXPORTS[name].items():
        split = layout.split(own)
        assert split.json_file == str(root / json_file) and not split.part
        assert Path(split.images) == root / images
        listed = json.loads((root / json_file).read_text())["images"]
        names = [image["file_name"] for image in listed]
        paths = image_paths(names, split.images, split.json_file)
        assert [Path(path).resolve() for path in paths] == [
            root / images / file for file in ("a.jpg", "b.jpg")
        ]


@pytest.mark.parametrize("name", [n for n in EXPORTS if len(EXPORTS[n]) > 1])
def test_detectron2s_names_mean_the_splits_of_training_and_validation(export, name: str):
    for split in EXPORTS[name].values():
        root = export(*split)
    splits = [split for split in EXPORTS[name] if split != "test"]
    roles = ("training", "validation")
    assert [find_layout(str(root)).split_of_role(role).name for role in roles] == splits


def test_roboflow_is_read(export, make_cfg, log):
    for split in EXPORTS["Roboflow"].values():
        root = export(*split)
    cfg = make_cfg(root, ("coco_2017_train",), ("coco_2017_val", "test"))
    configure_datasets(cfg)
    assert cfg.DATASETS.TRAIN == ("coco_folder_train",)
    assert cfg.DATASETS.TEST == ("coco_folder_valid", "coco_folder_test")
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        records = DatasetCatalog.get(name)
        assert len(records) == 2 and all(os.path.isfile(r["file_name"]) for r in records)
    lines = [r.getMessage() for r in log.records if "layout" in r.getMessage()]
    assert lines == [
        f"{root} is in the layout of Roboflow; its splits: test (images in {root}/test), "
        f"train (images in {root}/train), valid (images in {root}/valid)"
    ]
    names = ["coco_folder_test", "coco_folder_train", "coco_folder_valid"]
    assert register_splits(str(root)) == names


def test_one_split_of_roboflow(export):
    root = export("train/_annotations.coco.json", "train")
    split = find_layout(str(root / "train")).split("train")
    assert (split.json_file, split.images) == (
        str(root / "train/_annotations.coco.json"), str(root / "train"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("json_file", "images", "name"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/mine.json", "images", "mine"),
        ("mine.json", "", "mine"),
        ("mine.json", "images/mine", "mine"),
        ("result.json", "images", "train"),
        ("train/_annotations.coco.json", "train", "train"),
    ],
)
def test_a_json_by_its_path(export, make_cfg, json_file: str, images: str, name: str):
    root = export(json_file, images)
    export("annotations/instances_train2017.json", "train2017")
    cfg = make_cfg(root / json_file, (), (name,))
    configure_datasets(cfg)
    assert (f"coco_folder_{name}",) == cfg.DATASETS.TEST
    assert str(root / json_file) == cfg.DATASETS.COCO_FOLDER
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    assert {os.path.dirname(r["file_name"]) for r in records} == {str(root / images)}


def test_a_json_beside_a_folder_of_another_name(export):
    root = export("mine.json", "pictures", "pictures/")
    split = find_layout(str(root / "mine.json")).split("mine")
    paths = image_paths(["pictures/a.jpg", "b.jpg"], split.images, split.json_file)
    assert paths == [str(root / "pictures" / name) for name in ("a.jpg", "b.jpg")]


# ---- what is not there ----


def test_an_unknown_layout(tmp_path: Path, make_cfg):
    root = tmp_path / "mine"
    (root / "photos").mkdir(parents=True)
    text = refusal(make_cfg(root, ("coco_2017_train",)))
    assert f"DATASETS.COCO_FOLDER {root} is a folder without annotations" in text
    assert "_annotations.coco.json (Roboflow)" in text and "labels.json (FiftyOne)" in text
    assert text.endswith("; found: photos")
    for number in range(20):
        (root / f"{number:02}.json").touch()
    (root / ".hidden").touch()
    text = refusal(make_cfg(root, ("train",)))
    assert "found: 00.json, 01.json, " in text and text.endswith(", … (21 entries)")
    assert "coco_2014" not in text and "coco_2017" not in text


def test_a_folder_in_a_folder(export, make_cfg):
    root = export("train/_annotations.coco.json", "train")
    text = refusal(make_cfg(root.parent, ("coco_2017_train",)))
    assert text.endswith(f"found: my_data; {root} is such a folder: name that")


@pytest.mark.parametrize("name", ["gone", "gone.json", "photo.jpg"])
def test_a_path_that_is_no_dataset(tmp_path: Path, make_cfg, name: str):
    (tmp_path / "photo.jpg").touch()
    text = refusal(make_cfg(tmp_path / name, ("coco_2017_train",)))
    assert f"DATASETS.COCO_FOLDER {tmp_path / name} is not a directory" in text


def test_an_unknown_name_is_answered_with_the_splits(export, make_cfg):
    root = export("train/_annotations.coco.json", "train")
    export("valid/_annotations.coco.json", "valid")
    text = refusal(make_cfg(root, ("trian",)))
    assert f"unknown dataset 'trian'; allowed: a split of DATASETS.COCO_FOLDER {root}" in text
    assert "(train, valid)" in text and "minival" not in text
    text = refusal(make_cfg(root, (), ("coco_folder_test",)))
    assert text.endswith(f"{root} (Roboflow) has no split 'test'; it has train, valid")


def test_several_splits_for_training(export, make_cfg):
    root = export("annotations/instances_train_a.json", "images")
    export("annotations/instances_train_b.json", "images")
    text = refusal(make_cfg(root, ("coco_2017_train",)))
    assert "several training splits (train_a, train_b): name those that you mean" in text
    export("annotations/instances_train2017.json", "images")
    configure_datasets(make_cfg(root, ("coco_2017_train",)))
    export("annotations/instances_trainval.json", "images")
    assert find_layout(str(root)).split_of_role("training").name == "train2017"


def test_keypoints_are_splits_where_they_are_meant(export):
    for name in ("instances_train2017", "person_keypoints_train2017", "captions_train2017"):
        root = export(f"annotations/{name}.json", "train2017")
    layout = find_layout(str(root))
    assert layout.names == ["train2017"]
    assert layout.split_of_role("training").name == "train2017"
    split = layout.split_of_role("training", "person_keypoints_")
    assert split.name == "person_keypoints_train2017"
    assert split.images == str(root / "train2017")
