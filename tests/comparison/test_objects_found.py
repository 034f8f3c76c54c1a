"""How many of the objects are found and named right."""

from __future__ import annotations

import json

import pytest

from lambda_det.comparison.objects_found import objects_found


def write(path, content) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def annotation(number, image, category, box, crowd=0) -> dict:
    area = box[2] * box[3]
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area,
            "iscrowd": crowd}  # fmt: skip


def detection(image, category, box, score) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.fixture
def truth() -> dict:
    return {
        "images": [{"id": n, "height": 99, "width": 99} for n in (1, 2, 3)],
        "categories": [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}],
        "annotations": [
            annotation(1, 1, 4, [0, 0, 10, 10]),
            annotation(2, 1, 9, [50, 50, 10, 10]),
            annotation(3, 2, 9, [0, 0, 10, 10]),
            annotation(4, 2, 4, [20, 20, 70, 70], crowd=1),
            annotation(5, 3, 4, [0, 0, 10, 10]),
        ],
    }


def test_the_most_confident_detection_names_an_object(truth, tmp_path):
    detections = [
        detection(1, 9, [0, 0, 10, 10], 0.3),
        detection(1, 4, [0, 0, 10, 6], 0.6),  # IoU 0.6: right
        detection(1, 9, [50, 50, 10, 4], 0.9),  # IoU 0.4: not found
        detection(2, 4, [0, 0, 10, 10], 0.8),  # wrong
        detection(2, 4, [20, 20, 70, 70], 0.9),  # of the crowd
    ]
    paths = write(tmp_path / "t.json", truth), write(tmp_path / "d.json", detections)
    assert objects_found(*paths) == {  # of the four that are no crowd
        "found_percent": 50.0,
        "right_class_percent": 25.0,
    }


def test_where_nothing_can_be_said(truth, tmp_path):
    none = write(tmp_path / "d.json", [])
    assert objects_found(write(tmp_path / "t.json", truth), none) == {
        "found_percent": 0,
        "right_class_percent": 0,
    }
    empty = truth | {"annotations": []}
    assert objects_found(write(tmp_path / "t.json", empty), none) == {}
    truth["categories"] = truth["categories"][:1]
    one = write(tmp_path / "d.json", [detection(1, 4, [0, 0, 10, 10], 0.3)])
    assert objects_found(write(tmp_path / "t.json", truth), one) == {}
