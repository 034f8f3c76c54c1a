"""Example images: what counts as found, which images are chosen, what is drawn."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lambda_det.comparison import read_suite
from lambda_det.comparison.examples import Found, choose, examples_of, found_per_image
from lambda_det.data import generate_shapes
from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation.ground_truth import GroundTruth


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes") / "data"
    generate_shapes(root, num_train=1, num_val=6, seed=3)
    return root


@pytest.fixture(scope="module")
def truth(dataset) -> dict:
    return json.loads((dataset / "annotations" / "instances_val2017.json").read_text())


def perfect(truth: dict) -> list[dict]:
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{**{key: a[key] for key in keys}, "score": 0.9} for a in truth["annotations"]]


def test_found_and_wrong(truth, tmp_path):
    truth = copy.deepcopy(truth)
    detections = perfect(truth)
    first = truth["annotations"][0]
    image = first["image_id"]
    number = sum(a["image_id"] == image for a in truth["annotations"])
    other = next(c["id"] for c in truth["categories"] if c["id"] != first["category_id"])
    path = tmp_path / "p.json"

    def found(entries: list[dict]) -> Found:
        path.write_text(json.dumps(entries))
        return found_per_image(GroundTruth(clean_coco(truth, "truth")), str(path))[image]

    assert found(detections) == Found(number, 0, number)
    assert found([]) == Found(0, 0, number)
    own = detections[0]
    assert found([own, own]) == Found(1, 1, number)  # an object is found once
    assert found([own | {"score": 0.49}]) == Found(0, 0, number)
    assert found([own | {"category_id": other}]) == Found(0, 1, number)
    first["iscrowd"] = 1
    assert found(detections) == Found(number - 1, 0, number - 1)


def test_the_largest_lead_and_lag_are_chosen(content, write_suite, tmp_path):
    suite = read_suite(write_suite(content), str(tmp_path))
    plain = {image: Found(matched, 0, 5) for image, matched in enumerate([2, 2, 4, 1, 3])}
    own = {image: Found(matched, 0, 5) for image, matched in enumerate([4, 4, 3, 1, 0])}
    own[1] = Found(4, 2, 5)
    assert choose(suite, {"plain": plain, "lambda": own}) == {
        0: "λ-50 finds 2 more than R-50",
        4: "R-50 finds 3 more than λ-50",
    }
    assert choose(suite, {"plain": plain, "lambda": plain}) == {}
    assert choose(suite, {"lambda": own}) == {}


@pytest.mark.slow
def test_tiles_are_drawn(read, train, content, output, dataset, truth):
    content["overrides"]["DATASETS.COCO_FOLDER"] = str(dataset)
    content["seeds"] = [4]
    suite = read()
    detections = perfect(truth)
    (output / "lambda.json").write_text(json.dumps(detections))
    lacking = detections[0]["image_id"]
    (output / "plain.json").write_text(
        json.dumps([d for d in detections if d["image_id"] != lacking])
    )
    states = train(suite, jobs=2)
    (example,) = examples_of(suite, states, "")
    number = sum(d["image_id"] == lacking for d in detections)
    assert example.reason == f"λ-50 finds {number} more than R-50 (seed 4)"
    assert [caption for caption, _ in example.tiles] == [
        "ground truth",
        f"R-50: 0 of {number} found, 0 wrong",
        f"λ-50: {number} of {number} found, 0 wrong",
    ]
    images = [cv2.imdecode(np.frombuffer(t, np.uint8), cv2.IMREAD_COLOR) for _, t in example.tiles]
    assert max(images[0].shape) == 400 and len({image.shape for image in images}) == 1
    drawn, bare, own = (image.astype(int) for image in images)
    assert np.abs(own - drawn).mean() < 5 < np.abs(bare - drawn).mean()  # labels have scores

    (output / "runs/plain/seed4/inference/coco_instances_results.json").write_text("[")
    with pytest.raises(InputError, match="not valid JSON"):
        examples_of(suite, states, "")
    assert examples_of(suite, dict.fromkeys(states, "new"), "") == []
