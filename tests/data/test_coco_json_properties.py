"""Whatever a json contains, the reader accepts it or names the fault in one line."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from lambda_det.data.coco_json import clean_coco
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
