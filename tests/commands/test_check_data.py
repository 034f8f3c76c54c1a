"""The command check_data: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lambda_det.commands import check_data, make_coco_subset
from lambda_det.data.reading.findings import KINDS

SQUARE = [4, 6, 14, 6, 14, 14, 4, 14]


def content(first_name: str = "a.png") -> dict:
    """Two images with an object each; the second object has no area, a third one no extent."""
    entry = {"category_id": 7, "iscrowd": 0, "bbox": [4, 6, 10, 8], "segmentation": [SQUARE]}
    return {
        "images": [
            {"id": number, "file_name": name, "height": 30, "width": 40}
            for number, name in ((1, first_name), (2, "b.png"))
        ],
        "annotations": [
            {**entry, "id": 1, "image_id": 1, "area": 80},
            {**entry, "id": 2, "image_id": 2},
            {"id": 3, "image_id": 2, "category_id": 7, "bbox": [5, 5, 0, 0], "area": 0,
             "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "seven"}],
    }  # fmt: skip


def write_folder(root: Path, **splits: dict) -> Path:
    (root / "annotations").mkdir(parents=True)
    for split, value in splits.items():
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(value))
        for image in value["images"]:
            pixels = np.full((30, 40, 3), 90, np.uint8)
            cv2.imwrite(str(root / split / image["file_name"]), pixels)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", train=content(), val=content("c.png"))


def test_report_as_text_and_json(folder, tmp_path, capsys):
    output = tmp_path / "new" / "o.json"
    assert check_data.main([str(folder), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    for split in ("train", "val"):
        assert f"{split}: 2 images, 2 objects, 0 crowd regions, 1 annotations left out" in printed
    assert "annotation id 2 of b.png" in printed and "annotation id 3 of b.png" in printed
    train, val = json.loads(output.read_text())["splits"]
    assert (train["split"], val["split"]) == ("train", "val")
    assert [(f["kind"], f["count"], f["treatment"]) for f in train["findings"]] == [
        ("area", 1, "mended"), ("no_extent", 1, "left out")
    ]  # fmt: skip
    assert check_data.main([str(folder), "--split", "val"]) == 0
    assert "train: " not in capsys.readouterr().out


def test_what_is_refused_is_one_line(folder, tmp_path, capsys):
    output, clean = tmp_path / "o.json", tmp_path / "clean"
    spoiled = copy.deepcopy(content())
    spoiled["annotations"][0]["bbox"] = [1, 2, float("nan"), 4]
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(spoiled))
    words = [str(folder), "--output", str(output), "--write", str(clean)]
    assert check_data.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "instances_val.json: annotation id 1 of a.png has" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "the dataset "),
        (["data", "--split", "test"], "instances_test.json does not exist"),
        (["data", "--count", "1"], "--count needs --write"),
        (["data", "--image-ids", "1"], "--image-ids needs --write"),
        (["data", "--copy"], "--copy needs --write"),
        (["data", "--write", "new", "--seed", "1"], "--seed 1 needs --count"),
        (["data", "--write", "new", "--image-ids", "1"], "--image-ids needs --split, one of train"),
        (["data", "--write", "new", "--count", "9"], "--count 9: "),
        (["data", "--write", "data"], "exists already"),
        (["data", "--output", "data"], "--output data cannot be written"),
        (["data", "--examples", "data"], "--examples data cannot be written"),
    ],
)
def test_wrong_words(folder, monkeypatch, capsys, words, said):
    monkeypatch.chdir(folder.parent)
    assert check_data.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert [path.name for path in folder.parent.iterdir()] == ["data"]


def test_a_training_needs_an_object_in_some_split(folder, capsys):
    empty = {"annotations": []}
    val = json.dumps(content("c.png") | empty)
    (folder / "annotations" / "instances_val.json").write_text(val)
    assert check_data.main([str(folder)]) == 0
    assert "this can only be a test set" in capsys.readouterr().out
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content() | empty))
    assert check_data.main([str(folder)]) == 2
    assert "has no annotations to train on" in capsys.readouterr().err


def test_page_of_examples(folder, tmp_path):
    page = tmp_path / "page.png"
    assert check_data.main([str(folder), "--split", "val", "--examples", str(page)]) == 0
    image = cv2.imread(str(page))
    # Three rows (as learned, no area, no extent) of images 300 high, 400 wide.
    is_red = (image == (0, 0, 255)).all(axis=2)
    rows = np.flatnonzero(is_red.any(axis=1))
    assert image.shape[1] > 3 * 400 and image.shape[0] > 3 * 300
    assert (rows < image.shape[0] / 3 - 20).sum() == 0  # nothing is marked in the first
    for part in (1, 2):
        top, bottom = (image.shape[0] * edge // 3 for edge in (part, part + 1))
        assert ((rows >= top) & (rows < bottom)).any()


def test_every_kind_can_be_drawn(tmp_path):
    value = content()
    first = value["annotations"][0]
    value["images"].append(value["images"][0])
    value["images"].append({"id": 3, "file_name": "d.png", "height": -1, "width": -1})
    value["images"][1]["width"] = "40"
    changes = [
        {"image_id": 9}, {"category_id": 9}, {"iscrowd": None}, {"bbox": [0, 0, 0, 0]},
        {"bbox": [4, 6, 10, -1e-9]}, {"segmentation": SQUARE}, {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[*SQUARE, 4]]}, {"segmentation": [SQUARE, [1, 2, 3, 4]]},
        {"segmentation": []}, {"id": 1}, {"bbox": [99, 6, 5, 5]},
        {"bbox": None, "segmentation": [[1, 2]]},
    ]  # fmt: skip
    value["annotations"] += [{**first, "id": 10 + i, **c} for i, c in enumerate(changes)]
    root, page = write_folder(tmp_path / "data", train=value), tmp_path / "page.png"
    output = tmp_path / "o.json"
    words = [str(root), "--examples", str(page), "--output", str(output)]
    assert check_data.main(words) == 0
    found = {f["kind"] for f in json.loads(output.read_text())["splits"][0]["findings"]}
    assert found == set(KINDS) - {"all_crowds"}
    assert cv2.imread(str(page)).shape[0] > (len(found) - 2) * 300  # two kinds have no image


def test_clean_folder_and_a_second_split(folder, tmp_path, capsys):
    clean = tmp_path / "clean"
    words = [str(folder), "--write", str(clean), "--split"]
    assert check_data.main([*words, "train", "--image-ids", "2"]) == 0
    assert f"{clean}: 1 images, 1 objects in train" in capsys.readouterr().out
    assert check_data.main([*words, "val", "--count", "1", "--copy"]) == 0
    assert f"{clean}: 1 images (the first by id), 1 objects in val" in capsys.readouterr().out
    assert check_data.main([str(clean)]) == 0
    assert capsys.readouterr().out.count("findings: none") == 2
    assert check_data.main([*words, "val", "--count", "1", "--seed", "4"]) == 2
    assert "has the split 'val' already" in capsys.readouterr().err


def test_the_older_name_for_a_few_images(folder, tmp_path, capsys):
    output = tmp_path / "few"
    words = ["--coco", str(folder), "--split", "val", "--image-ids", "1", "2"]
    assert make_coco_subset.main([*words, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: 2 images, 2 objects in val\n"
    assert (output / "val" / "c.png").is_symlink()
    assert make_coco_subset.main([*words, "--output", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --output {folder}: exists already") and error.count("\n") == 1


def test_broken_images_are_refused(folder, tmp_path, capsys):
    whole = (folder / "train" / "b.png").read_bytes()
    other = cv2.imencode(".png", np.zeros((31, 40, 3), np.uint8))[1].tobytes()
    clean = tmp_path / "clean"
    for spoiled, said in ((whole[: len(whole) // 2], "is truncated"), (other, "is 40 x 31 pixels")):
        (folder / "train" / "b.png").write_bytes(spoiled)
        assert check_data.main([str(folder), "--write", str(clean)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error and "1 of the 2 image files" in error
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
        words = ["--coco", str(folder), "--split", "train", "--output", str(clean), "--image-ids"]
        assert make_coco_subset.main([*words, "1", "2"]) == 2
        assert said in capsys.readouterr().err and not clean.exists()
    assert make_coco_subset.main([*words, "1"]) == 0  # of the images that are taken


def test_a_reader_that_ends_early_takes_nothing_away(folder, tmp_path, monkeypatch):
    def ended(*_):
        raise BrokenPipeError

    monkeypatch.setattr(check_data, "print", ended, raising=False)
    clean, output = tmp_path / "clean", tmp_path / "o.json"
    with pytest.raises(BrokenPipeError):
        check_data.main([str(folder), "--write", str(clean), "--output", str(output)])
    assert (clean / "annotations" / "instances_val.json").is_file() and output.is_file()
