"""The generated dataset contains what its docstring says, and is reproducible."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from lambda_det.data import generate_shapes, shapes_statistics
from lambda_det.data.generated.shapes import CATEGORY_IDS
from lambda_det.errors import InputError

SPLITS = ("train2017", "val2017")


def all_bytes(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("split", SPLITS)
def test_statistics(shapes: Path, split: str):
    found = shapes_statistics(shapes, split)
    assert found["images"] == (48 if split == "train2017" else 32)
    shares = [found[f"{size}_share"] for size in ("small", "medium", "large")]
    assert min(shares) >= 0.2 and sum(shares) == pytest.approx(1)
    assert found["occluded_share"] >= 0.3
    assert found["polygons"] > 0 and found["rles"] > 0 and found["crowds"] >= 3
    assert found["images_without_objects"] >= 2
    assert len(found["objects_per_class"]) == 4 and min(found["objects_per_class"].values()) > 0


@pytest.mark.parametrize("split", SPLITS)
def test_masks_boxes_and_areas_are_exact(shapes: Path, split: str, capsys):
    coco = COCO(str(shapes / "annotations" / f"instances_{split}.json"))
    kinds, with_hole, heights, widths = set(), 0, set(), set()
    for image in coco.imgs.values():
        pixels = cv2.imread(str(shapes / split / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        heights.add(image["height"])
        widths.add(image["width"])
        covered = np.zeros(pixels.shape[:2], np.uint8)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation)
            assert mask.shape == pixels.shape[:2]
            assert annotation["area"] == mask.sum() > 0
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            box = [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["bbox"] == [float(v) for v in box]
            segmentation = annotation["segmentation"]
            assert annotation["category_id"] in CATEGORY_IDS
            covered += mask
            if annotation["iscrowd"]:
                assert isinstance(segmentation["counts"], list)
                kinds.add("crowd")
                continue
            assert annotation["area"] >= 0.75 * annotation["full_area"] - 1
            if isinstance(segmentation, list):
                assert annotation["area"] == annotation["full_area"]
                kinds.add("polygon")
            else:
                kinds.add("rle")
                _, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
                with_hole += bool((hierarchy[0, :, 3] >= 0).any())
        assert covered.max() <= 1  # every pixel belongs to one object at most
    assert kinds == {"crowd", "polygon", "rle"}
    assert with_hole >= 10
    assert len(heights) > 3
    assert len(widths) > 3


def test_every_class_has_hues_of_its_own(shapes: Path):
    """Nearest of the classes' median hues names the class of nearly every object."""
    coco = COCO(str(shapes / "annotations" / "instances_train2017.json"))
    hues, classes = [], []
    for annotation in coco.anns.values():
        file_name = coco.imgs[annotation["image_id"]]["file_name"]
        pixels = cv2.imread(str(shapes / "train2017" / file_name))
        mean = pixels[coco.annToMask(annotation).astype(bool)].mean(axis=0)
        hue = cv2.cvtColor(mean.astype(np.uint8)[None, None], cv2.COLOR_BGR2HSV)[0, 0, 0]
        hues.append(np.exp(2j * np.pi * hue / 180))  # on a circle: red is 0 and 179
        classes.append(annotation["category_id"])
    hues, classes = np.array(hues), np.array(classes)
    names = np.unique(classes)
    centres = np.array([hues[classes == name].mean() for name in names])
    nearest = names[np.abs(hues[:, None] - centres).argmin(axis=1)]
    assert (nearest == classes).mean() > 0.97


def test_whole_objects_have_a_rim(shapes: Path):
    """Nearly black or white all around, unlike the inside: a part does not look like a whole."""
    coco = COCO(str(shapes / "annotations" / "instances_train2017.json"))
    whole = [a for a in coco.anns.values() if not a["iscrowd"] and a["area"] == a["full_area"]]
    assert len(whole) > 30
    for annotation in whole:
        file_name = coco.imgs[annotation["image_id"]]["file_name"]
        pixels = cv2.imread(str(shapes / "train2017" / file_name)).astype(float)
        mask = np.pad(coco.annToMask(annotation), 1)  # an object ends where the image ends
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)[1:-1, 1:-1]
        rim, inside = pixels[(depth > 0) & (depth < 2.5)], pixels[depth > 4]
        brightness = rim.mean(axis=1)
        assert np.median(brightness) < 60 or np.median(brightness) > 200
        assert np.ptp(rim.mean(axis=0)) < 50  # grey
        assert np.ptp(inside.mean(axis=0)) > 60  # a colour


def test_objects_of_one_class_do_not_touch(shapes: Path):
    coco = COCO(str(shapes / "annotations" / "instances_train2017.json"))
    pairs = 0
    for listed in coco.imgToAnns.values():
        for i, one in enumerate(listed):
            grown = cv2.dilate(coco.annToMask(one), np.ones((3, 3), np.uint8))
            for other in listed[:i]:
                if one["category_id"] == other["category_id"]:
                    pairs += 1
                    assert not (grown & coco.annToMask(other)).any()
    assert pairs >= 5


def test_same_seed_same_bytes(tmp_path: Path):
    for name in ("one", "two"):
        generate_shapes(tmp_path / name, num_train=6, num_val=4, seed=5)
    generate_shapes(tmp_path / "other", num_train=6, num_val=4, seed=6)
    one = all_bytes(tmp_path / "one")
    assert len(one) == 6 + 4 + 3
    assert one == all_bytes(tmp_path / "two")
    assert one["train2017/000000000001.jpg"] != (
        (tmp_path / "other" / "train2017" / "000000000001.jpg").read_bytes()
    )


def test_splits_are_disjoint_and_do_not_depend_on_each_other(shapes: Path, tmp_path: Path):
    train = {p.read_bytes() for p in (shapes / "train2017").iterdir()}
    val = {p.read_bytes() for p in (shapes / "val2017").iterdir()}
    assert len(train) == 48
    assert len(val) == 32
    assert not train & val
    generate_shapes(tmp_path / "fewer", num_train=2, num_val=32, seed=3)
    assert {p.read_bytes() for p in (tmp_path / "fewer" / "val2017").iterdir()} == val


def test_made_once(tmp_path: Path):
    root = tmp_path / "shapes"
    assert generate_shapes(root, num_train=2, num_val=1) == str(root)
    marker = root / "train2017" / "000000000001.jpg"
    before = marker.stat().st_mtime_ns
    generate_shapes(root, num_train=2, num_val=1)
    assert marker.stat().st_mtime_ns == before
    manifest = root / "shapes.json"
    for labels, is_same in (("shape", True), ("partner", False)):  # what earlier versions had too
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"labels": labels}))
        if is_same:
            assert generate_shapes(root, num_train=2, num_val=1)
        else:
            with pytest.raises(InputError, match="generated with labels partner, not shape"):
                generate_shapes(root, num_train=2, num_val=1)
    with pytest.raises(InputError, match="num_train 2, not 3"):
        generate_shapes(root, num_train=3, num_val=1)
    assert [p.name for p in tmp_path.iterdir()] == ["shapes"]  # nothing half-written


def test_foreign_folder_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not a generated shapes dataset"):
        generate_shapes(tmp_path, num_train=1, num_val=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_empty_folder_is_used(tmp_path: Path):
    root = tmp_path / "empty"
    root.mkdir()
    generate_shapes(root, num_train=1, num_val=1)
    assert (root / "shapes.json").is_file()


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lambda_det.data.generated.shapes._annotation", fail)
    with pytest.raises(InputError, match="No space left on device"):
        generate_shapes(tmp_path / "shapes", num_train=1, num_val=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"num_train": 0}, "num_train 0"),
        ({"num_val": -1}, "num_val -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_wrong_parameters(tmp_path: Path, wrong: dict, text: str):
    with pytest.raises(InputError, match=text):
        generate_shapes(tmp_path / "shapes", **wrong)
    assert not list(tmp_path.iterdir())


def test_statistics_of_another_json(tmp_path: Path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(InputError, match="not the json of a generated shapes dataset"):
        shapes_statistics(tmp_path, "val2017")
