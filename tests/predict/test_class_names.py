"""Where the names of the classes come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lambda_det import get_cfg
from lambda_det.data import generate_shapes
from lambda_det.errors import InputError
from lambda_det.predict.class_names import (
    classes_of_annotations,
    classes_of_config,
    classes_of_file,
)


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("a.txt", "cat\n\ndog \n", (0, 1)),
        ("a.txt", "\ufeffcat\r\ndog", (0, 1)),
        ("a.json", '["cat", "dog"]', (0, 1)),
        ("a.json", '{"9": "dog", "3": "cat"}', (3, 9)),
        ("a.json", '{"categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]}', (3, 9)),
    ],
)
def test_files(tmp_path: Path, name: str, content: str, ids: tuple):
    (tmp_path / name).write_text(content)
    classes = classes_of_file(str(tmp_path / name))
    assert classes.names == ("cat", "dog") and classes.ids == ids
    assert classes.categories == [
        {"id": i, "name": n} for i, n in zip(ids, ("cat", "dog"), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", ""),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", "{"),
        ("a.json", "3"),
        ("a.json", '["cat", 4]'),
        ("a.json", '{"one": "cat"}'),
        ("a.json", '[{"name": "cat"}]'),
        ("a.json", '[{"id": [], "name": "cat"}]'),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, name: str, content: str | bytes):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=name):
        classes_of_file(str(path))


def test_annotations_without_their_images(tmp_path: Path):
    path = tmp_path / "a.json"
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (8, 3, 11)]
    categories = [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}]
    content = {"images": images, "annotations": [], "categories": categories}
    path.write_text(json.dumps(content))
    classes, images = classes_of_annotations(str(path))
    assert (classes.names, classes.ids) == (("two", "seven"), (2, 7))
    assert [image["id"] for image in images] == [8, 3, 11]


def test_the_data_of_the_config(tmp_path: Path):
    generate_shapes(tmp_path / "s", num_train=2, num_val=1, seed=0)
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ("coco_2017_val",)
    cfg.DATASETS.COCO_FOLDER = str(tmp_path / "s")
    before = cfg.dump()
    listed = json.loads((tmp_path / "s/annotations/instances_val2017.json").read_text())
    classes = classes_of_config(cfg, None)
    assert classes.categories == [
        {"id": entry["id"], "name": entry["name"]} for entry in listed["categories"]
    ]
    assert classes_of_config(cfg, len(classes) + 1) is None  # another detector's
    assert cfg.dump() == before


def test_coco_without_its_data_and_a_folder_that_is_gone(tmp_path: Path):
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("coco_2017_val",)
    classes = classes_of_config(cfg, 80)
    assert (classes.names[79], classes.ids[79]) == ("toothbrush", 90)
    assert classes_of_config(cfg, 4) is None
    cfg.DATASETS.COCO_FOLDER = str(tmp_path / "gone")
    assert classes_of_config(cfg, 80) is None
