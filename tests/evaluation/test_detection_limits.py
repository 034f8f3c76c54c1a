"""More than COCO's 100 detections: an independent reference, and COCO's own numbers below."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from evaluation_helpers import judge, random_detections, truth_as_detections

from lambda_det.commands import evaluate as command
from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation import CocoMetricsEvaluator, evaluate_files
from lambda_det.evaluation.counting import count
from lambda_det.evaluation.detections import Detections
from lambda_det.evaluation.ground_truth import GroundTruth
from lambda_det.evaluation.metrics import METRICS


def evaluate(content: dict, entries: list[dict], **arguments) -> dict:
    truth = GroundTruth(clean_coco(content, "a.json"))
    return count(truth, Detections(entries, truth, "p.json"), backend="pycocotools", **arguments)


def grid(per_class: tuple[tuple[int, ...], ...]) -> dict:
    """Boxes of 12 x 12, as many of each class in each image; none overlap."""
    objects = [
        (image, category, 16 * (k % 20), 16 * (k // 20) + 300 * (category - 1))
        for image, numbers in enumerate(per_class, start=1)
        for category, number in enumerate(numbers, start=1)
        for k in range(number)
    ]
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "height": 640, "width": 320}
            for i in range(len(per_class))
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": [x, y, 12, 12],
             "area": 144, "iscrowd": 0}
            for i, (image, category, x, y) in enumerate(objects, start=1)
        ],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(1, len(per_class[0]) + 1)],
    }  # fmt: skip


def perfect(content: dict) -> list[dict]:
    return [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.99 - 1e-4 * a["id"]}
        for a in content["annotations"]
    ]


def moved(content: dict, seed: int) -> list[dict]:
    """Each object found twice, moved at random, and as many boxes where nothing is."""
    rng = np.random.default_rng(seed)
    found = []
    for entry in perfect(content) * 2:
        x, y, w, h = entry["bbox"]
        dx, dy = rng.normal(0, 1.5, 2)
        found.append({**entry, "bbox": [x + dx, y + dy, w, h], "score": float(rng.random())})
        if rng.random() < 0.5:
            found.append({**entry, "bbox": [x + 6, y + 6, w, h], "score": float(rng.random())})
    return found


def reference(content: dict, found: list[dict], limit: int) -> dict[str, float]:
    """COCO's AP of boxes by its definition, in float64, without crowds and areas."""
    thresholds, values = np.linspace(0.5, 0.95, 10), []
    for category in {c["id"] for c in content["categories"]}:
        of_class = [a for a in content["annotations"] if a["category_id"] == category]
        per_threshold = []
        for threshold in thresholds:
            judged: list[tuple[float, bool]] = []
            for image in content["images"]:
                objects = [a["bbox"] for a in of_class if a["image_id"] == image["id"]]
                mine = [
                    e for e in found
                    if (e["image_id"], e["category_id"]) == (image["id"], category)
                ]  # fmt: skip
                free = set(range(len(objects)))
                for entry in sorted(mine, key=lambda e: -e["score"])[:limit]:
                    overlaps = {k: iou(entry["bbox"], objects[k]) for k in free}
                    best = max(overlaps, key=overlaps.__getitem__, default=None)
                    hit = best is not None and overlaps[best] >= threshold
                    free -= {best} if hit else set()
                    judged.append((entry["score"], hit))
            judged.sort(key=lambda pair: -pair[0])
            hits = np.cumsum([hit for _, hit in judged], dtype=np.float64)
            precision = hits / np.arange(1, len(hits) + 1)
            recall = hits / len(of_class)
            reached = [precision[recall >= r] for r in np.linspace(0, 1, 101)]
            per_threshold.append(np.mean([p.max() if len(p) else 0 for p in reached]))
        values.append(per_threshold)
    means = 100 * np.mean(values, axis=0)
    return {"AP": means.mean(), "AP50": means[0], "AP75": means[5]}


def iou(one, other) -> float:
    sides = [
        max(0.0, min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]))
        for i in (0, 1)
    ]
    common = sides[0] * sides[1]
    return common / (one[2] * one[3] + other[2] * other[3] - common)


@pytest.mark.slow
def test_perfect_detections_of_250_objects():
    content = grid(((250,),))
    found = perfect(content)
    coco = evaluate(content, found)["bbox"]
    assert coco["AP"] == coco["APs"] == pytest.approx(100 * 41 / 101)
    for limit in (250, 300, -1):
        values = evaluate(content, found, max_detections=limit)["bbox"]
        assert values["AP"] == values["AP50"] == values["APs"] == pytest.approx(100)
        for name in ("AR1", "AR10", "AR100", "ARs"):
            assert values[name] == coco[name]
        assert values["AR100"] == pytest.approx(40) and values["AR1"] == pytest.approx(0.4)
    values = evaluate(content, found, max_detections=200)["bbox"]
    assert values["AP"] == pytest.approx(100 * 81 / 101)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 150, -1])
def test_as_a_reference(limit: int):
    content = grid(((120, 30), (40, 110)))
    found = moved(content, seed=5)
    values = evaluate(content, found, max_detections=limit)["bbox"]
    expected = reference(content, found, 10**6 if limit == -1 else limit)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert (values["AP"] > evaluate(content, found)["bbox"]["AP"] + 1) == (limit != 100)


@pytest.mark.slow
def test_up_to_100_cocos_numbers_come_out_to_the_bit(real):
    content = real["val2017"]
    found = random_detections(content, seed=7)  # with 130 of a class in some images
    stats = {task: (100 * judge(content, found, task)).tolist() for task in ("bbox", "segm")}
    for limit in (0, 50, 100):
        results = evaluate(content, found, max_detections=limit)
        assert {task: [results[task][name] for name in METRICS] for task in stats} == stats


def test_a_larger_limit_that_nothing_reaches_changes_nothing(real):
    content = real["val2017"]
    found = random_detections(content, seed=8, crowded=0)
    assert evaluate(content, found, max_detections=300) == evaluate(content, found)


def test_files_are_warned_of_once(tmp_path, caplog):
    content = grid(((250, 0), (80, 20), (101, 0)))
    found = perfect(content)
    paths = tmp_path / "a.json", tmp_path / "p.json"
    for path, data in zip(paths, (content, found), strict=True):
        path.write_text(json.dumps(data))
    with caplog.at_level(logging.WARNING):
        results = evaluate_files(*map(str, paths))
    (text,) = [r.getMessage() for r in caplog.records]
    assert "2 of 3 images have more than 100 objects of one class (up to 250)" in text
    # 280 of the 431 objects of the first class can be found, all of the second
    bound = 100 * (65 / 101 + 1) / 2
    assert f"the AP is at most {bound:.1f}" in text and "--max-detections" in text
    assert results["bbox"]["AP"] == pytest.approx(bound)
    caplog.clear()
    assert evaluate_files(*map(str, paths), max_detections=-1)["bbox"]["AP"] == pytest.approx(100)
    assert not caplog.records


def test_as_many_objects_as_count_are_no_warning(tmp_path, caplog):
    content = grid(((100, 100),))
    paths = tmp_path / "a.json", tmp_path / "p.json"
    for path, data in zip(paths, (content, perfect(content)), strict=True):
        path.write_text(json.dumps(data))
    assert evaluate_files(*map(str, paths))["bbox"]["AP"] == pytest.approx(100)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_the_command_and_its_wrong_values(tmp_path, capsys):
    content = grid(((250,),))
    paths = tmp_path / "a.json", tmp_path / "p.json", tmp_path / "o.json"
    for path, data in zip(paths, (content, perfect(content)), strict=False):
        path.write_text(json.dumps(data))
    words = ["--annotations", str(paths[0]), "--predictions", str(paths[1])]
    for limit in ("300", "-1"):
        more = ["--max-detections", limit, "--output", str(paths[2])]
        assert command.main([*words, *more]) == 0
        assert json.loads(paths[2].read_text())["bbox"]["AP"] == pytest.approx(100)
    capsys.readouterr()
    assert command.main([*words, "--max-detections", "-2"]) == 2
    assert "--max-detections=-2: expected a whole number" in capsys.readouterr().err
    assert command.main(["--config-file", "c.yaml", "--max-detections", "300"]) == 2
    assert "TEST.DETECTIONS_PER_IMAGE says how many" in capsys.readouterr().err


def test_the_evaluator_takes_the_limit(content, tmp_path, registered):
    content = grid(((250,),))
    name = registered(content)
    for limit, expected in ((100, 100 * 41 / 101), (300, 100), (-1, 100)):
        evaluator = CocoMetricsEvaluator(name, ("bbox",), str(tmp_path), max_detections=limit)
        evaluator.reset()
        found = [{**entry, "category_id": 0} for entry in perfect(content)]
        evaluator._predictions = [{"image_id": 1, "instances": found}]
        results = evaluator.evaluate()
        assert results["bbox"]["AP"] == pytest.approx(expected)
        assert results["bbox"]["AR100"] == pytest.approx(40)
    with pytest.raises(InputError, match=r"TEST\.DETECTIONS_PER_IMAGE=3\.5: expected a whole"):
        CocoMetricsEvaluator(name, ("bbox",), str(tmp_path), max_detections=3.5)


def test_a_score_above_1_by_rounding_is_1(content, caplog):
    entries = truth_as_detections(content)
    expected = evaluate(content, entries)
    rounded = [{**entry, "score": float(np.nextafter(np.float32(1), 2))} for entry in entries]
    assert rounded[0]["score"] > 1
    assert not caplog.records
    assert evaluate(content, rounded) == expected
    assert "p.json: 3 scores are above 1 by rounding; 1 is taken" in caplog.text
    # It is no better than a score of 1, and stands in its place of the order.
    low = {**rounded[0], "category_id": 2, "image_id": 3, "bbox": [30.0, 20.0, 5.0, 5.0]}
    one = [{k: v for k, v in e.items() if k != "segmentation"} for e in (*entries[:2], low)]
    as_one = evaluate(content, [*one[:2], {**one[2], "score": 1.0}])
    assert evaluate(content, one) == as_one
    with pytest.raises(InputError, match=r"entry 0 has score 1\.00001; 0 to 1"):
        evaluate(content, [{**entries[0], "score": 1.00001}])
