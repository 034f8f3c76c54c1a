"""The metrics of keypoints, against pycocotools called directly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from evaluation_helpers import judge
from pycocotools.cocoeval import Params

from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation import metrics_table
from lambda_det.evaluation.counting import count
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import KEYPOINT_METRICS, per_class_table

SIDES = (20, 60, 200)  # pixels, of a small, a medium and a large object


def random_set(num_keypoints: int, seed: int = 0) -> tuple[dict, list[dict]]:
    """Thirty images with up to six objects of two classes, and detections of them; crowds, objects
    without keypoints and without visible ones included."""
    rng = np.random.default_rng(seed)
    images, annotations, entries = [], [], []
    for image_id in range(5, 35):
        images.append({"id": image_id, "file_name": "a.jpg", "height": 300, "width": 400})
        for _ in range(rng.integers(0, 7)):
            side = float(rng.choice(SIDES))
            x, y = rng.uniform(0, 90, 2)
            points = rng.uniform(0, side, (num_keypoints, 2)) + (x, y)
            visible = rng.integers(0, 3, num_keypoints) * (rng.random() > 0.1)
            points[visible == 0] = 0
            keypoints = np.column_stack([points, visible]).ravel().tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(3, 5)),
                    "bbox": [float(x), float(y), side, side],
                    "area": 0.6 * side * side,
                    "iscrowd": int(rng.random() < 0.05),
                    "keypoints": keypoints,
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = points + rng.normal(0, rng.choice([0.01, 0.05, 0.2]) * side, points.shape)
                found = np.column_stack([moved, rng.random(num_keypoints)]).ravel()
                entries.append(
                    {
                        "image_id": image_id,
                        "category_id": annotations[-1]["category_id"],
                        "bbox": [float(x), float(y), side * 1.1, side],
                        "score": round(float(rng.random()), 2),
                        "keypoints": found.tolist(),
                    }
                )
    categories = [{"id": 3, "name": "three"}, {"id": 4, "name": "four"}]
    return {"images": images, "annotations": annotations, "categories": categories}, entries


def evaluate(content: dict, entries: list[dict], **arguments) -> dict:
    truth = GroundTruth(clean_coco(content, "a.json"))
    return count(truth, Detections(entries, truth, "p.json"), **arguments)


@pytest.mark.parametrize("with_boxes", [True, False])
def test_random_predictions_as_pycocotools(with_boxes: bool) -> None:
    content, entries = random_set(17)
    if not with_boxes:  # the form of COCO's server
        for entry in entries:
            del entry["bbox"]
    before = copy.deepcopy((content, entries))
    results = evaluate(content, entries)
    assert (content, entries) == before
    assert set(results) == ({"bbox", "keypoints"} if with_boxes else {"keypoints"})
    expected = 100 * judge(content, entries, "keypoints")
    assert [results["keypoints"][name] for name in KEYPOINT_METRICS] == pytest.approx(expected)
    assert len(set(expected.round(3))) == 10 and expected.min() > 5
    three = results["keypoints"]["per_class"][0]
    expected = 100 * judge(content, entries, "keypoints", [3])
    assert [three[name] for name in KEYPOINT_METRICS] == pytest.approx(expected)
    assert "AP50" in per_class_table(results) and "AR75" in metrics_table(results, "AR")


def test_other_sigmas(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    sigmas = (0.05, 0.1, 0.02)
    content, entries = random_set(3)
    assert "keypoints" not in evaluate(content, entries)
    assert "3 keypoints and 17 OKS sigmas" in caplog.text
    results = evaluate(content, entries, oks_sigmas=sigmas)
    original = Params.setKpParams

    def set_sigmas(self: Params) -> None:
        original(self)
        self.kpt_oks_sigmas = np.array(sigmas)

    monkeypatch.setattr(Params, "setKpParams", set_sigmas)
    expected = 100 * judge(content, entries, "keypoints")
    assert [results["keypoints"][name] for name in KEYPOINT_METRICS] == pytest.approx(expected)


def test_an_object_without_keypoints_does_not_count() -> None:
    content, entries = random_set(17)
    expected = evaluate(content, entries)["keypoints"]
    for annotation in content["annotations"]:
        if not annotation["num_keypoints"]:
            del annotation["keypoints"], annotation["num_keypoints"]
    assert any("keypoints" not in annotation for annotation in content["annotations"])
    assert evaluate(content, entries)["keypoints"] == expected


@pytest.mark.parametrize("points", [[1.0, 2.0, 0.5], [float("nan")] * 51, "text"])
def test_other_values_are_refused(points: object) -> None:
    content, entries = random_set(17)
    entries[3]["keypoints"] = points
    with pytest.raises(
        InputError, match=r"entry 3 has keypoints .* of the 17 keypoints are needed"
    ):
        evaluate(content, entries)


def test_keypoints_of_annotations_that_have_none() -> None:
    content, entries = random_set(17)
    for annotation in content["annotations"]:
        del annotation["keypoints"]
    assert set(evaluate(content, entries)) == {"bbox"}
    for entry in entries:
        del entry["bbox"]
    with pytest.raises(InputError, match="are keypoints only"):
        evaluate(content, entries)
