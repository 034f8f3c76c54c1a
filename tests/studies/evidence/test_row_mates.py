"""The dataset of generated scenes: its COCO json and its images say the same."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from lambda_det.errors import InputError
from studies.evidence.row_mates import SPLITS, generate, main
from studies.evidence.scenes import Layout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rows") / "control"
    generate(str(root), "control", num_train=12, num_val=5, seed=3)
    return root


def read(folder: Path, split: str) -> dict:
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def test_boxes_masks_and_kinds_are_those_of_the_pixels(folder):
    """In ``control`` a square has the colour of its kind: red 1, blue 2."""
    for split, count in zip(SPLITS, (12, 5), strict=True):
        coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
        names = [category["name"] for category in coco.loadCats(coco.getCatIds())]
        assert len(coco.imgs) == count and names == ["red", "blue"]
        for number, info in coco.imgs.items():
            image = cv2.imread(str(folder / split / info["file_name"]))
            assert image.shape == (info["height"], info["width"], 3)
            annotations = coco.imgToAnns[number]
            assert sorted(a["category_id"] for a in annotations) == [1, 1, 2, 2]
            for annotation in annotations:
                left, top, width, height = annotation["bbox"]
                x, y = left + width // 2, top + height // 2
                same = (image == image[y, x]).all(-1)
                rows, columns = np.flatnonzero(same[:, x]), np.flatnonzero(same[y])
                inside = columns[(columns >= left) & (columns < left + width)]
                assert inside.min() == left and inside.max() == left + width - 1
                assert not same[y, [left - 1, left + width]].any()
                assert {top, top + height - 1} & set(rows.tolist())
                blue, _, red = map(int, image[y, x])
                assert annotation["category_id"] == (1 if red > blue else 2)
                assert annotation["area"] == width * height == coco.annToMask(annotation).sum()


def test_splits_share_no_image_and_the_bytes_depend_on_the_seed_alone(folder, tmp_path):
    def images(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}

    first = images(folder)
    assert len(first) == len(set(first.values())) == 17
    generate(str(tmp_path / "more"), "control", num_train=12, num_val=7, seed=3)
    more = images(tmp_path / "more")
    assert len(more) == 19 and more | first == more, "an image does not depend on their number"
    generate(str(tmp_path / "other"), "control", num_train=12, num_val=5, seed=4)
    assert not set(images(tmp_path / "other").values()) & set(first.values())


def test_command_line(tmp_path, capsys):
    words = "--set matches --num-train 2 --num-val 1 --rows 6 --side 160 --distance 64".split()
    assert main(["--output", str(tmp_path / "m"), *words]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "m")
    content = read(tmp_path / "m", "train2017")
    assert [c["name"] for c in content["categories"]] == ["red", "blue"]
    assert len(content["annotations"]) == 12 and content["images"][0]["height"] == 160


@pytest.mark.parametrize(
    "words, line",
    [
        (["--num-val", "0"], "error: --num-val 0: at least 1 is needed"),
        (["--seed", "-1"], "error: --seed -1: a number of at least 0 is needed"),
        (["--rows", "5"], "error: rows 5: an even number from 2 on is needed"),
    ],
)
def test_a_bad_value_is_one_line_and_leaves_nothing(words, line, tmp_path, capsys):
    assert main(["--output", str(tmp_path / "new" / "x"), *words]) == 2
    assert capsys.readouterr().err.strip() == line
    assert not list(tmp_path.rglob("*"))


def test_a_folder_that_is_there_is_left_alone(folder):
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        generate(str(folder), "rows", Layout(), num_train=1, num_val=1)
    assert sorted(folder.rglob("*")) == before


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    import studies.evidence.row_mates as module

    real, drawn = module.draw_scene, []

    def draw(*arguments):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "draw_scene", draw)
    with pytest.raises(KeyboardInterrupt):
        generate(str(tmp_path / "x"), num_train=4, num_val=1)
    assert not list(tmp_path.iterdir())
