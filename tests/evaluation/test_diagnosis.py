"""The line that an AP of 0 gets, on real annotations and detections with a known mistake."""

from __future__ import annotations

import copy
import json
import logging

import numpy as np
import pytest
from evaluation_helpers import truth_as_detections

from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.evaluation import evaluate_files
from lambda_det.evaluation.counting import count
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.diagnosis import diagnose_zero, warn_of_zero
from lambda_det.evaluation.ground_truth import GroundTruth


@pytest.fixture
def truth(real) -> dict:
    return real["val2017"]


def boxes_only(content: dict, change=lambda box, image: box) -> list[dict]:
    """Every object found, its box changed by ``change``."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [float(v) for v in change(np.array(a["bbox"]), sizes[a["image_id"]])],
            "score": 0.9,
        }
        for a in content["annotations"]
        if not a["iscrowd"]
    ]


def diagnosed(content: dict, entries: list[dict]) -> str:
    ground_truth = GroundTruth(clean_coco(content, "truth.json"))
    detections = Detections(entries, ground_truth, "detections")
    assert count(ground_truth, detections)["bbox"]["AP"] < 5
    text = diagnose_zero(ground_truth, detections)
    assert "\n" not in text
    return text


def test_no_detection(truth):
    text = diagnosed(truth, [])
    assert "there is no detection" in text and "SCORE_THRESH_TEST" in text


def test_classes_in_another_order(truth):
    ids = sorted(category["id"] for category in truth["categories"])
    shifted = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    names = {category["id"]: category["name"] for category in truth["categories"]}
    entries = boxes_only(truth)
    most = max(ids, key=[e["category_id"] for e in entries].count)
    for entry in entries:
        entry["category_id"] = shifted[entry["category_id"]]
    text = diagnosed(truth, entries)
    assert "order of the classes" in text
    assert "highest score 0.9; 100 % of the objects have an overlapping detection" in text
    assert f"{names[most]!r} is detected as {names[shifted[most]]!r}" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda b, _: [b[0], b[1], b[0] + b[2], b[1] + b[3]],
            "100 % do if the boxes are read as corn",
        ),
        (lambda b, s: b / (s * 2), "100 % do if the boxes are read as relative"),
        (lambda b, _: b * 2.5, "if the boxes are divided by 2.5"),
        (lambda b, _: b / 1.7, "if the boxes are divided by 0.588"),
    ],
    ids=["corners", "relative", "larger", "smaller"],
)
def test_boxes_in_another_form(truth, change, expected):
    text = diagnosed(truth, boxes_only(truth, change))
    assert expected in text and "x, y, width, height in pixels" in text


def test_boxes_of_resized_images(truth):
    """The factor is each image's own, but many images have one size."""
    text = diagnosed(truth, boxes_only(truth, lambda b, s: b * 800 / min(s)))
    assert "if the boxes are divided by 1." in text


def test_a_model_that_knows_nothing(truth):
    rng = np.random.default_rng(0)
    entries = boxes_only(truth, lambda _, s: [*(rng.uniform(0, 0.9, 2) * s), 12, 9])
    for entry in entries:
        entry["score"] = 0.06
    text = diagnosed(truth, entries)
    assert "has not learned, it was not trained for long enough" in text
    assert "highest score 0.06" in text
    assert "divided" not in text and "order of the classes" not in text


def synthetic(per_image: int, images: int, classes: int = 2) -> dict:
    """Small images with small objects at random places."""
    rng = np.random.default_rng(4)
    content: dict = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 96, "width": 128}
            for i in range(1, images + 1)
        ],
        "annotations": [],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, classes + 1)],
    }
    for image in content["images"]:
        for _ in range(per_image):
            x, y, w, h = *rng.integers(0, 60, 2).tolist(), *rng.integers(16, 30, 2).tolist()
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": image["id"], "area": w * h,
                 "category_id": int(rng.integers(1, classes + 1)), "bbox": [x, y, w, h],
                 "iscrowd": 0}
            )  # fmt: skip
    return content


@pytest.mark.parametrize("images", [4, 12, 60])
@pytest.mark.parametrize("score", [0.3, 0.9])
def test_boxes_of_a_network_that_has_learned_nothing(images: int, score: float):
    """They are everywhere and twice as large as any object, so some fit if they are divided."""
    content, rng = synthetic(2, images), np.random.default_rng(1)
    entries = [
        {
            "image_id": image["id"], "category_id": 1, "score": score,
            "bbox": [*rng.uniform(0, 110, 2), *rng.uniform(36, 60, 2)],
        }
        for image in content["images"]
        for _ in range(100)
    ]  # fmt: skip
    text = diagnosed(content, entries)
    assert "has not learned" in text and "divided" not in text and "order" not in text


@pytest.mark.parametrize(("images", "blamed"), [(24, False), (25, True)])
def test_a_factor_needs_50_pairs(images: int, blamed: bool):
    content = synthetic(2, images)
    text = diagnosed(content, boxes_only(content, lambda b, _: b * 3))
    assert ("divided by 3:" in text) is blamed and ("has not learned" in text) is not blamed


@pytest.mark.parametrize(("score", "blamed"), [(0.49, False), (0.5, True)])
def test_pairs_that_nobody_is_sure_of_show_nothing(truth, score: float, blamed: bool):
    entries = [e | {"score": score} for e in boxes_only(truth, lambda b, s: b / (s * 2))]
    text = diagnosed(truth, entries)
    assert ("read as relative" in text) is blamed and ("has not learned" in text) is not blamed


def test_pairs_that_match_badly_show_nothing(truth):
    rng = np.random.default_rng(2)

    def far_and_shifted(box, _):
        shift = rng.choice([-0.25, 0.25], 2) * box[2:]
        return 2.5 * np.concatenate([box[:2] + shift, box[2:]])

    text = diagnosed(truth, boxes_only(truth, far_and_shifted))
    assert "has not learned" in text and "divided" not in text


def test_images_without_objects_and_detections_elsewhere(content):
    empty = copy.deepcopy(content)
    empty["annotations"] = [a for a in empty["annotations"] if a["iscrowd"]]
    ground_truth = GroundTruth(clean_coco(empty, "truth.json"))
    entry = {"image_id": 11, "category_id": 2, "bbox": [0.0, 0.0, 3.0, 3.0], "score": 0.5}
    detections = Detections([entry], ground_truth, "detections")
    assert "no image has an object" in diagnose_zero(ground_truth, detections)
    ground_truth = GroundTruth(clean_coco(content, "truth.json"))
    detections = Detections([entry], ground_truth, "detections")
    assert "1 detections on 1 of 3 images" in diagnose_zero(ground_truth, detections)


def warnings(log) -> list[str]:
    return [r.getMessage() for r in log.records if r.levelno >= logging.WARNING]


def test_the_line_comes_with_the_evaluation_and_only_at_zero(content, tmp_path, log):
    content["annotations"] = content["annotations"][:2]
    annotations, predictions = tmp_path / "a.json", tmp_path / "p.json"
    annotations.write_text(json.dumps(content))
    right = truth_as_detections(content)
    predictions.write_text(json.dumps(right))
    evaluate_files(str(annotations), str(predictions))
    assert not warnings(log)
    wrong = [{**entry, "category_id": 9 - entry["category_id"]} for entry in right]
    predictions.write_text(json.dumps(wrong))
    evaluate_files(str(annotations), str(predictions))
    (text,) = warnings(log)
    assert text.startswith(f"predictions {predictions}: the box AP is 0: 2 detections on 2 of 3")
    assert "Check that the order of the classes" in text


def test_undefined_is_not_zero(content, log):
    content["annotations"] = []
    ground_truth = GroundTruth(clean_coco(content, "truth.json"))
    detections = Detections([], ground_truth, "detections")
    results = count(ground_truth, detections)
    assert results["bbox"]["AP"] is None
    warn_of_zero(results, ground_truth, detections, "detections")
    warn_of_zero({}, ground_truth, detections, "detections")
    assert not warnings(log)
