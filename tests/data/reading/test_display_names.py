"""Classes of one name are told apart, everywhere."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given
from hypothesis import strategies as st

from lambda_det.data import configure_datasets
from lambda_det.data.reading.display_names import display_names, plain_name, registered_names
from lambda_det.engine.evaluation import check_best_metric
from lambda_det.errors import InputError
from lambda_det.evaluation import drawn_objects, evaluate_files
from lambda_det.evaluation.coco import flat_results
from lambda_det.evaluation.drawing import draw_predictions
from lambda_det.evaluation.metrics import per_class_table
from lambda_det.predict.class_names import classes_of_annotations, classes_of_file

FISH = [{"id": 7, "name": "tank"}, {"id": 3, "name": "fish"}, {"id": 0, "name": "fish"}]
SHOWN = ["fish (0)", "fish (3)", "tank"]


def test_names_that_differ_stay():
    assert display_names([(3, "a"), (1, "A"), (2, "a ")]) == ["a", "A", "a "]
    assert display_names([]) == []


def test_names_that_are_the_same():
    assert display_names([(1, "a"), (2, "b"), (5, "a")]) == ["a (1)", "b", "a (5)"]
    assert display_names([(1, "a"), (2, "a"), (3, "a (2)")]) == ["a (1)", "a (2) (2)", "a (2) (3)"]


@given(st.lists(st.sampled_from(["a", "a (1)", "a (2)", "a (1) (2)", "", "b"]), max_size=7))
def test_they_always_differ(names: list[str]):
    pairs = list(enumerate(names))
    shown = display_names(pairs)
    assert len(set(shown)) == len(names)
    assert display_names(zip(range(len(names)), shown, strict=True)) == shown
    for (number, name), one in zip(pairs, shown, strict=True):
        assert one.startswith(name) and plain_name(number, one) == plain_name(number, name)


@pytest.fixture
def fishes(small_content: dict) -> dict:
    small_content["categories"] = FISH
    return small_content


def test_a_folder_and_its_best_metric(write_folder, fishes, make_cfg):
    name = "coco_folder_val2017"
    cfg = make_cfg(write_folder(val2017=fishes), ("val2017",), ("val2017",))
    configure_datasets(cfg)
    for _ in range(2):  # the data may be read again
        dicts = DatasetCatalog.get(name)
        assert [a["category_id"] for d in dicts for a in d["annotations"]] == [2, 1]
        assert MetadataCatalog.get(name).thing_classes == SHOWN
    assert registered_names(MetadataCatalog.get(name)) == SHOWN
    check_best_metric("bbox/AP-fish (3)", (name,), ("bbox",))
    with pytest.raises(InputError, match=r"AP-fish \(0\), AP-fish \(3\), AP-<name of a class>"):
        check_best_metric("bbox/AP-fish", (name,), ("bbox",))


def test_a_set_that_the_user_registered_with_equal_names(monkeypatch):
    metadata = MetadataCatalog.get("equal_names")
    monkeypatch.setitem(vars(metadata), "thing_classes", ["fish", "fish"])
    assert registered_names(metadata) == ["fish (0)", "fish (1)"]
    ids = {4: 0, 9: 1}
    monkeypatch.setitem(vars(metadata), "thing_dataset_id_to_contiguous_id", ids)
    check_best_metric("bbox/AP-fish (9)", ("equal_names",), ("bbox",))


def test_results_and_tables(fishes, tmp_path):
    paths = tmp_path / "a.json", tmp_path / "p.json"
    found = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for a in fishes["annotations"][1:]
    ]
    for path, data in zip(paths, (fishes, found), strict=True):
        path.write_text(json.dumps(data))
    results = evaluate_files(*map(str, paths))
    assert [entry["name"] for entry in results["bbox"]["per_class"]] == SHOWN
    flat = flat_results(results["bbox"])
    assert np.isnan(flat["AP-fish (0)"]) and flat["AP-tank"] == 0
    assert flat["AP-fish (3)"] == pytest.approx(100)
    assert "fish (3)" in per_class_table(results)


def test_drawings(fishes, tmp_path, monkeypatch):
    labels = []
    original = drawn_objects.DrawnObject

    def record(**values):
        labels.append(values["label"])
        return original(**values)

    monkeypatch.setattr(drawn_objects, "DrawnObject", record)
    for image in fishes["images"]:
        cv2.imwrite(str(tmp_path / image["file_name"]), np.zeros((30, 40, 3), np.uint8))
    found = [{"image_id": 1, "category_id": 0, "bbox": [1, 2, 9, 9], "score": 0.75}]
    for name, data in (("a.json", fishes), ("p.json", found)):
        (tmp_path / name).write_text(json.dumps(data))
    files = (str(tmp_path / name) for name in ("a.json", "", "p.json", "o.png"))
    draw_predictions(*files)
    assert labels == ["tank", "fish (0) 0.75", "fish (3)"]


def test_class_names_of_predict(fishes, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(fishes))
    assert classes_of_annotations(str(path))[0].names == tuple(SHOWN)
    assert classes_of_file(str(path)).names == tuple(SHOWN)
