"""A fault of a folder or its json gives one clear line before the training."""

from __future__ import annotations

import copy
import json

import pytest
from data_helpers import single_line

from lambda_det.data import configure_datasets, register_coco_folder
from lambda_det.errors import InputError


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
        (("annotations", 1, "category_id"), None, "annotation id 2 has category_id None"),
        (("annotations", 0, "bbox"), [1, 2, 3, "x"], "bbox"),
        (("annotations", 0, "ignore"), 1, "ignore"),
        (("annotations", 0, "bbox"), [1, 2, -3, 4], "bbox.*not negative"),
        (("annotations", 0), 3, r"annotations\[0\] has no image_id, category_id"),
        (("annotations", 0, "image_id"), [1], r"annotation id 1 has image_id \[1\]"),
        (("annotations", 0, "iscrowd"), 2, "annotation id 1 of a.jpg has 'iscrowd' 2"),
        (("annotations", 0, "segmentation"), [["x"] * 6], "annotation id 1 of a.jpg.*polygon"),
        (("images", 0, "file_name"), 12, "wrong type"),
        (("categories", 0, "id"), 3, "category id 3 occurs twice"),
        (("categories", 0, "id"), "fish", "category id 'fish' is not an integer"),
        (("annotations",), [], "no annotations to train on"),
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


def test_boxes_without_masks(write_folder, small_content: dict, make_cfg):
    for annotation in small_content["annotations"]:
        del annotation["segmentation"]
    cfg = make_cfg(write_folder(train2017=small_content), ("train2017",))
    with pytest.raises(InputError, match=r"no object has a segmentation.*MODEL\.MASK_ON False"):
        configure_datasets(cfg.clone())
    cfg.MODEL.MASK_ON = False
    configure_datasets(cfg)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 2
