"""Whatever a json contains, the reader accepts it or names the fault in one line."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.data.reading.intake import detectron2_images
from lambda_det.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip
SIDE = st.integers(-1, 50) | JSON
NUMBER = st.floats(-5, 60) | JSON
BOX = st.lists(NUMBER, min_size=4, max_size=4) | JSON
ENTRY = {
    "images": {"id": st.integers(1, 3) | JSON, "file_name": st.text(max_size=5) | JSON,
               "height": SIDE, "width": SIDE},
    "categories": {"id": st.integers(1, 3) | JSON, "name": st.text(max_size=3) | JSON},
    "annotations": {"id": st.integers(1, 9) | JSON, "image_id": st.integers(1, 3) | JSON,
                    "category_id": st.integers(1, 3) | JSON, "bbox": BOX, "area": NUMBER,
                    "iscrowd": st.integers(0, 1) | JSON,
                    "segmentation": st.lists(st.lists(NUMBER, max_size=8), max_size=2) | JSON},
}  # fmt: skip
GOOD = {
    "images": [{"id": 1, "file_name": "a", "height": 30, "width": 40}],
    "categories": [{"id": 1, "name": "one"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12,
                     "iscrowd": 0, "segmentation": [[1, 2, 4, 2, 4, 6]]}],
}  # fmt: skip


@st.composite
def contents(draw) -> dict:
    """A correct json with some of its values, and some entries more, of any kind."""
    content = {}
    for section, values in ENTRY.items():
        entry = dict(GOOD[section][0])
        for key in draw(st.lists(st.sampled_from(sorted(values)), max_size=2)):
            entry[key] = draw(values[key])
        more = draw(st.lists(st.fixed_dictionaries(values) | JSON, max_size=1))
        content[section] = [entry, *more]
    return content


@settings(max_examples=50, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(contents())
def test_a_json_is_taken_or_refused_by_a_line(content) -> None:
    try:
        summary, listed, entries = clean_coco(content, "a.json")
    except InputError as error:
        text = str(error)
        assert "\n" not in text and text.isprintable() and "a.json" in text
    else:
        assert len(entries) + summary.findings.left_out() == len(content["annotations"])
        assert summary.num_objects == sum(not entry["iscrowd"] for entry in entries)
        ids = {image["id"] for image in listed}
        assert all(entry["image_id"] in ids and entry["area"] >= 0 for entry in entries)
        assert all(min(entry["bbox"][2:]) > 0 for entry in entries)
        assert summary.most_objects[0] <= summary.num_objects
        assert all(isinstance(name, str) for name in summary.class_names)


# Faults of real exports: what is put into an annotation, "remove" takes the key away.
SQUARE = [1, 2, 9, 2, 9, 12, 1, 12]
FAULTS = [
    {"id": "remove"}, {"id": 1}, {"id": None}, {"image_id": "1"}, {"image_id": 1.0},
    {"image_id": 99}, {"category_id": "2"}, {"category_id": 99}, {"category_id": "fish"},
    {"bbox": "remove"}, {"bbox": None}, {"bbox": []}, {"bbox": [1, 2, 0, 10]},
    {"bbox": [1, 2, 8, -7e-15]}, {"bbox": [-3, -4, 80, 90]}, {"bbox": [1, 2, 8, -3]},
    {"area": "remove"}, {"area": -80}, {"area": [0]}, {"area": None}, {"iscrowd": "remove"},
    {"iscrowd": None}, {"iscrowd": 1}, {"iscrowd": True}, {"segmentation": "remove"},
    {"segmentation": None}, {"segmentation": []}, {"segmentation": [[]]},
    {"segmentation": [[1, 2]]}, {"segmentation": [[1, 2, 3, 4]]}, {"segmentation": SQUARE},
    {"segmentation": [[*SQUARE, 1]]}, {"segmentation": [SQUARE, [1, 2]]},
    {"segmentation": [[x, y] for x, y in zip(SQUARE[::2], SQUARE[1::2], strict=True)]},
    {"segmentation": {"size": [30, 40], "counts": [600, 600]}, "iscrowd": 1},
    {"segmentation": {"size": [40, 30], "counts": [600, 600]}},
]  # fmt: skip


def _with(annotation: dict, fault: dict) -> dict:
    changed = {**annotation, **fault}
    return {key: value for key, value in changed.items() if value != "remove"}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.lists(st.sampled_from(FAULTS), max_size=2), min_size=1, max_size=6))
def test_every_annotation_is_learned_or_counted(faults) -> None:
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (1, 2)],
        "categories": [{"id": 2, "name": "two"}, {"id": 3, "name": "three"}],
        "annotations": [],
    }
    for number, several in enumerate(faults, start=1):
        annotation = {"id": number, "image_id": 2, "category_id": 3, "bbox": [1, 2, 8, 10],
                      "area": 80, "iscrowd": 0, "segmentation": [SQUARE]}  # fmt: skip
        for fault in several:
            annotation = _with(annotation, fault)
        content["annotations"].append(annotation)
    try:
        found = clean_coco(content, "a.json")
    except InputError as error:
        assert "a.json: annotation" in str(error) and "\n" not in str(error)
        return
    images = detectron2_images(found, ["1.jpg", "2.jpg"])
    learned = sum(not a["iscrowd"] for image in images for a in image["annotations"])
    crowds = sum(a["iscrowd"] for image in images for a in image["annotations"])
    assert learned == found.summary.num_objects
    assert learned + crowds + found.summary.findings.left_out() == len(faults)
