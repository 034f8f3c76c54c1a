"""The harder pictures: the same for both sorts of labels, and the labels say what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from lambda_det.data import generate_shapes, shapes_statistics
from lambda_det.errors import InputError


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for labels in ("own", "partner"):
        generate_shapes(folder / labels, num_train=40, num_val=4, seed=2, labels=labels)
    return {labels: folder / labels for labels in ("own", "partner")}


def read(root: Path) -> COCO:
    return COCO(str(root / "annotations" / "instances_train2017.json"))


def looks_warm(picture: np.ndarray, mask: np.ndarray) -> bool:
    """By the object's colour: more red than blue, away from its rim."""
    inside = cv2.erode(mask, np.ones((7, 7), np.uint8)).astype(bool)
    blue, _, red = np.median(picture[inside], axis=0)
    return red > blue


def test_same_pictures_and_masks_other_labels(sets: dict[str, Path]):
    pictures = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*.jpg")} for root in sets.values()
    ]
    assert len(pictures[0]) == 44
    assert pictures[0] == pictures[1]
    own, partner = (
        json.loads((root / "annotations" / "instances_train2017.json").read_text())
        for root in sets.values()
    )
    assert own["categories"] == partner["categories"]
    ids = [[a.pop("category_id") for a in c["annotations"]] for c in (own, partner)]
    assert own["annotations"] == partner["annotations"]
    shared = np.mean(np.array(ids[0]) == np.array(ids[1]))
    assert 0.5 < shared < 0.95  # the crosses, and half of the others


@pytest.mark.parametrize("labels", ["own", "partner"])
def test_kind_is_where_the_labels_say(sets: dict[str, Path], labels: str):
    coco = read(sets[labels])
    deceived = 0
    for image_id, image in coco.imgs.items():
        picture = cv2.imread(str(sets[labels] / "train2017" / image["file_name"]))
        kinds, shapes, warm = [], [], []
        for annotation in coco.imgToAnns[image_id]:
            kind, shape = coco.cats[annotation["category_id"]]["name"].split("_")
            kinds.append(kind == "warm")
            shapes.append(shape)
            warm.append(looks_warm(picture, coco.annToMask(annotation)))
        assert shapes.count("cross") == 2
        assert set(shapes[:2]) == {"cross"}
        assert set(kinds[:2]) == {warm[0]}
        assert kinds == (warm if labels == "own" else [warm[0]] * len(warm))
        deceived += sum(one != warm[0] for one in warm)
    assert deceived > 20  # own colour and cross differ often enough to tell the two sets apart


def test_crosses_are_apart_and_every_pixel_belongs_to_one_object(sets: dict[str, Path]):
    coco = read(sets["own"])
    for listed in coco.imgToAnns.values():
        masks = [coco.annToMask(a) for a in listed]
        assert np.sum(masks, axis=0).max() == 1
        crosses = np.any(masks[:2], axis=0).astype(np.uint8)
        near = cv2.dilate(crosses, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (15, 15)))
        assert not any((near & mask).any() for mask in masks[2:])
        assert all(a["area"] == m.sum() for a, m in zip(listed, masks, strict=True))


def test_statistics(sets: dict[str, Path]):
    statistics = shapes_statistics(sets["partner"], "train2017")
    assert len(statistics.objects_per_class) == 10
    assert min(statistics.objects_per_class.values()) > 0
    assert min(statistics.small_share, statistics.medium_share, statistics.large_share) > 0.02
    assert statistics.occluded_share > 0.1


def test_labels_are_checked_and_part_of_the_set(sets: dict[str, Path], tmp_path: Path):
    with pytest.raises(InputError, match="labels 'other': expected one of shape, own, partner"):
        generate_shapes(tmp_path / "set", labels="other")
    with pytest.raises(InputError, match="labels own, not partner"):
        generate_shapes(sets["own"], num_train=40, num_val=4, seed=2, labels="partner")
