"""Detections and annotations that cannot be evaluated give one line of error."""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path

import pytest
from evaluation_helpers import truth_as_detections

from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation import evaluate_files
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth

HALF = {"size": [30, 40], "counts": [600, 600]}


def write(folder: Path, content: dict, predictions: object) -> tuple[str, str]:
    paths = folder / "annotations.json", folder / "predictions.json"
    paths[0].write_text(json.dumps(content))
    text = predictions if isinstance(predictions, str) else json.dumps(predictions)
    paths[1].write_text(text)
    return str(paths[0]), str(paths[1])


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"image_id": 99}, ["image_id 99", "3 images", "another dataset"]),
        ({"image_id": [8]}, ["image_id [8]"]),
        ({"category_id": 1}, ["category_id 1", "2 categories", "another dataset"]),
        ({"score": 1.5}, ["score 1.5", "0 to 1"]),
        ({"score": math.nan}, ["score nan"]),
        ({"score": 10**400}, ["score 1000"]),
        ({"bbox": [1, 2, math.nan, 4]}, ["bbox [1, 2, nan, 4]", "finite"]),
        ({"bbox": [1, 2, -3, 4]}, ["bbox [1, 2, -3, 4]", "not negative"]),
        ({"bbox": []}, ["entry 1 has no bbox", "2 others"]),
        ({"segmentation": None}, ["entry 1 has no segmentation"]),
        ({"segmentation": 5}, ["neither polygons nor RLE"]),
        ({"segmentation": [[1, 1, 2, 2]]}, ["three points"]),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, ["pairs of finite numbers"]),
        ({"segmentation": [[1, 1, 2, 2, 3, math.nan]]}, ["pairs of finite numbers"]),
        ({"segmentation": [[0, 0, 401, 0, 0, 9]]}, ["beyond 10 times its image"]),
        ({"segmentation": {"size": [40, 30], "counts": [600, 600]}}, ["[40, 30]", "[30, 40]"]),
        ({"segmentation": {"size": [30, 40], "counts": [600, 601]}}, ["30 x 40"]),
        ({"segmentation": {"size": [30, 40], "counts": 7}}, ["neither text nor a list"]),
        ({"segmentation": {"size": [30, 40], "counts": "04"}}, ["not a complete RLE"]),
    ],
)
def test_wrong_entry(content, tmp_path, change, texts):
    entries = truth_as_detections(content)
    entries[1] |= change
    paths = write(tmp_path, content, entries)
    with pytest.raises(InputError) as error:
        evaluate_files(*paths)
    message = str(error.value)
    assert paths[1] in message and "entry 1" in message and "\n" not in message
    assert len(message) < 250 + len(paths[0]) + len(paths[1])
    for text in texts:
        assert text in message


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_true_is_no_id(content, key):
    for annotation in content["annotations"]:
        annotation[key] = 1
    content["images" if key == "image_id" else "categories"][0]["id"] = 1
    entries = truth_as_detections(content)
    truth = GroundTruth(clean_coco(content, "a.json"))
    assert len(Detections(entries, truth, "p.json")) == 3
    entries[2][key] = True
    with pytest.raises(InputError, match=f"entry 2 has {key} True"):
        Detections(entries, truth, "p.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"image_id": 8, "category_id": 7, "bbo', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"annotations": []}', "a dict, not a list"),
        ("[3]", "entry 0 lacks one of image_id, category_id, score"),
        ('[{"image_id": 8, "category_id": 7}]', "entry 0 lacks"),
        (
            '[{"image_id": 8, "category_id": 7, "score": 1}]',
            "neither bbox, segmentation nor keypoints",
        ),
    ],
)
def test_wrong_file(content, tmp_path, text, reason):
    paths = write(tmp_path, content, text)
    with pytest.raises(InputError) as error:
        evaluate_files(*paths)
    assert reason in str(error.value) and paths[1] in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_files(content, tmp_path):
    paths = write(tmp_path, content, [])
    with pytest.raises(InputError, match=r"gone\.json cannot be read: No such file"):
        evaluate_files(paths[0], str(tmp_path / "gone.json"))
    with pytest.raises(InputError, match=r"gone\.json cannot be read: No such file"):
        evaluate_files(str(tmp_path / "gone.json"), paths[1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bbox": [4, 6, -1, 8]}, "not negative"),
        ({"bbox": [4, 6, 1, math.nan]}, "four finite numbers"),
        ({"iscrowd": 2}, "'iscrowd'"),
        ({"segmentation": {"size": [40, 30], "counts": [600, 600]}}, "size"),
        ({"segmentation": {"size": [30, 40], "counts": "04"}}, "not a complete RLE"),
    ],
)
def test_wrong_annotation(content, tmp_path, change, text):
    entries = truth_as_detections(content)
    content["annotations"][1] |= change
    paths = write(tmp_path, content, entries)
    with pytest.raises(InputError) as error:
        evaluate_files(*paths)
    message = str(error.value)
    assert text in message and "annotation id 6" in message and paths[0] in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"height": 0}, "height 0"),
        ({"width": 40.5}, "width 40.5"),
        ({"width": 2**16}, "from 1 to 65535"),
        ({"id": "8"}, "are one id as text and as a number"),
    ],
)
def test_wrong_image(content, change, text):
    content["images"][2] |= change
    with pytest.raises(InputError, match=text):
        GroundTruth(clean_coco(content, "a.json"))


def test_short_polygon_of_the_truth_is_left_out_beside_others(content):
    entries = truth_as_detections(copy.deepcopy(content))
    truth = GroundTruth(clean_coco(content, "a.json"))
    whole = truth.coco("segm").anns[1]["segmentation"]
    content["annotations"][0]["segmentation"] = [[0, 0, 9, 9], *entries[0]["segmentation"]]
    assert GroundTruth(clean_coco(content, "a.json")).coco("segm").anns[1]["segmentation"] == whole


def test_boxes_by_their_corners_are_pointed_out(content, caplog):
    truth = GroundTruth(clean_coco(content, "a.json"))
    entries = [{k: e[k] for k in ("image_id", "category_id", "score", "bbox")}
               for e in truth_as_detections(content)]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        Detections(entries, truth, "p.json")
        assert not caplog.records
        entries[2]["bbox"] = [20, 0, 40, 30]
        Detections(entries, truth, "p.json")
    assert "1 of 3 boxes reach beyond" in caplog.text
