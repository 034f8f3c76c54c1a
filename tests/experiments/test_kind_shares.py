"""Shares of shapes and kinds, by hand-made detections of a generated set."""

from __future__ import annotations

from pathlib import Path

import pytest
from pycocotools.coco import COCO

from lambda_det.data import generate_shapes
from lambda_det.data.kinds_scene import KIND_CLASS_NAMES
from lambda_det.errors import InputError
from lambda_det.experiments.kinds import kind_shares


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> COCO:
    root = tmp_path_factory.mktemp("kinds") / "own"
    generate_shapes(root, num_train=1, num_val=12, labels="own")
    return COCO(str(root / "annotations" / "instances_val2017.json"))


def said(truth: COCO, **changes) -> list[dict]:
    """Every annotation as a detection."""
    keys = ("image_id", "category_id", "bbox")
    return [{k: a[k] for k in keys} | {"score": 0.5} | changes for a in truth.anns.values()]


def other_kind(category: int) -> int:
    return category + 1 if category % 2 else category - 1  # ids from 1, both kinds of a shape


def test_all_right(truth: COCO):
    everything = ("found", "shape", "kind", "cross_kind")
    assert kind_shares(truth, said(truth)) == {f"{name}_percent": 100 for name in everything}


def test_surest_detection_speaks_and_low_overlap_is_silent(truth: COCO):
    objects = [a for a in truth.anns.values() if a["category_id"] < 9]
    wrong = objects[:3]
    entries = said(truth)
    for annotation in wrong:
        sure = {"image_id": annotation["image_id"], "bbox": annotation["bbox"], "score": 0.9}
        entries.append(sure | {"category_id": other_kind(annotation["category_id"])})
    beside = [annotation["bbox"][0] + annotation["bbox"][2], *annotation["bbox"][1:]]
    entries.append(sure | {"bbox": beside, "score": 1.0, "category_id": 9})
    shares = kind_shares(truth, entries)
    assert shares["kind_percent"] == pytest.approx(100 * (1 - 3 / len(objects)))
    assert shares["shape_percent"] == shares["cross_kind_percent"] == 100
    assert KIND_CLASS_NAMES[8:] == ("warm_cross", "cool_cross")


def test_what_is_not_found_counts_for_nothing_else(truth: COCO):
    entries = [entry for entry in said(truth) if entry["category_id"] > 2]
    shares = kind_shares(truth, entries)
    assert 0 < shares["found_percent"] < 100
    assert shares["shape_percent"] == shares["kind_percent"] == 100
    assert kind_shares(truth, []) == {"found_percent": 0}


def test_other_categories_are_refused(tmp_path: Path):
    generate_shapes(tmp_path / "shape", num_train=1, num_val=1)
    truth = COCO(str(tmp_path / "shape" / "annotations" / "instances_val2017.json"))
    with pytest.raises(InputError, match="expected warm_disc"):
        kind_shares(truth, [])
