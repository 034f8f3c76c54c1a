"""Each kind of finding has one treatment, in training, evaluation and every command alike."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
from data_helpers import TRAIN, single_line, warnings
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import load_coco_json
from odd_entries import CASES, FIRST, ROWS, rle, spoiled

from lambda_det.data import configure_datasets
from lambda_det.data.reading.coco_json import clean_coco, read_coco
from lambda_det.data.reading.findings import KEPT, KINDS, LEFT_OUT
from lambda_det.data.reading.intake import load_coco
from lambda_det.data.training_images import training_images
from lambda_det.errors import InputError
from lambda_det.evaluation import evaluate_files


def alike(content: dict, section: str, index: int = 0) -> None:
    content[section].append(copy.deepcopy(content[section][index]))


@pytest.mark.parametrize(("kind", "path", "value", "wanted"), ROWS)
def test_treatment(write_folder, small_content: dict, kind: str, path, value, wanted):
    root = write_folder(mine=small_content)
    content = spoiled(small_content, path, value)
    before = copy.deepcopy(content)
    summary, images, annotations = clean_coco(content, "a.json", str(root / "mine"))
    assert content == before
    assert all((image["height"], image["width"]) == (30, 40) for image in images)
    assert summary.findings.counts[kind] == 1
    assert (KINDS[kind].treatment == LEFT_OUT) == (wanted is None)
    if wanted is None:
        assert [a["id"] for a in annotations] == [2]
        assert summary.findings.left_out() == 1
    else:
        field, expected = wanted
        assert len(annotations) == 2
        assert annotations[0][field] == expected
        assert kind not in ("number", "iscrowd") or type(annotations[0][field]) is int
        assert len({a["id"] for a in annotations}) == 2


def test_every_kind_is_tried():
    assert {*CASES, "repeated", "all_crowds"} == set(KINDS)


def test_the_page_has_the_table(project: Path):
    page = (project / "docs" / "data.md").read_text(encoding="utf-8")
    table = page[page.index("| finding | treatment |") :]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    wanted = [f"| {kind.what} | {kind.treatment}: {kind.done} |" for kind in KINDS.values()]
    assert rows == wanted


def test_entries_that_are_listed_twice(small_content: dict):
    alike(small_content, "images")
    alike(small_content, "categories")
    summary, images, _ = clean_coco(small_content, "a.json")
    assert (len(images), len(summary.categories)) == (2, 2)
    assert summary.findings.counts == {"repeated": 2}


def test_only_crowd_regions(small_content: dict):
    for annotation in small_content["annotations"]:
        annotation["iscrowd"] = 1
    assert clean_coco(small_content, "a.json").summary.findings.counts == {"all_crowds": 2}
    one = small_content["annotations"][0]
    small_content["annotations"] = [{**one, "id": i, "iscrowd": int(i > 1)} for i in range(1, 12)]
    assert clean_coco(small_content, "a.json").summary.findings.counts == {"all_crowds": 10}
    small_content["annotations"].pop()
    assert not clean_coco(small_content, "a.json").summary.findings.counts


def test_area_of_a_run_length_mask(small_content: dict):
    first = small_content["annotations"][0]
    first["segmentation"] = rle()
    first["bbox"] = first["area"] = None
    summary, _, annotations = clean_coco(small_content, "a.json")
    assert annotations[0]["area"] == mask_util.decode(rle()).sum() == 80
    assert annotations[0]["bbox"] == [4, 6, 10, 8]
    assert set(summary.findings.counts) == {"area", "box_from_mask"}


@pytest.mark.parametrize(("kind", "path", "value", "wanted"), ROWS)
def test_training_and_evaluation_read_alike(
    write_folder, small_content: dict, make_cfg, tmp_path, log, kind, path, value, wanted
):
    root = write_folder(train2017=small_content, val2017=small_content)
    content = spoiled(small_content, path, value)
    jsons = [root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")]
    for file in jsons:
        file.write_text(json.dumps(content))
    cfg = make_cfg(root, ("train2017",), ("val2017",))
    configure_datasets(cfg)
    lines = [line for line in warnings(log) if KINDS[kind].what in line]
    assert [line.count(str(file)) for line, file in zip(lines, jsons, strict=True)] == [1, 1]
    dicts = DatasetCatalog.get(TRAIN)
    learned = sum(len(image["annotations"]) for image in dicts)
    summary, _, annotations = read_coco(str(jsons[1]))
    assert learned == len(annotations) == 2 - summary.findings.left_out()

    found = [{"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"],
              "score": 0.9} for a in annotations]  # fmt: skip
    predictions = tmp_path / "found.json"
    predictions.write_text(json.dumps(found))
    assert evaluate_files(str(jsons[1]), str(predictions))["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("kind", CASES)
def test_strict(write_folder, small_content: dict, make_cfg, kind):
    path, value, _ = CASES[kind][0]
    root = write_folder(train2017=small_content)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(spoiled(small_content, path, value)))
    cfg = make_cfg(root, ("train2017",))
    cfg.DATASETS.STRICT = True
    if KINDS[kind].treatment == KEPT:
        configure_datasets(cfg)
        return
    with pytest.raises(InputError, match=r"DATASETS\.STRICT is True") as error:
        configure_datasets(cfg)
    assert KINDS[kind].what in single_line(error)


def test_a_line_says_what_happens(small_content: dict):
    content = spoiled(small_content, (*FIRST, "area"), "remove")
    findings = clean_coco(content, "a.json").summary.findings
    assert findings.line("area") == (
        "annotation file a.json: 1 annotations have no valid area; mended: it is measured on the "
        "mask, or else on the box (first: annotation id 1 of a.jpg)"
    )


@pytest.mark.parametrize("annotations", [None, "remove"])
def test_without_annotations(write_folder, small_content: dict, make_cfg, annotations):
    root = write_folder(train2017=small_content, val2017=small_content)
    content = spoiled(small_content, ("annotations",), annotations)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    configure_datasets(make_cfg(root, ("train2017",), ("val2017",)))
    val = str(root / "annotations" / "instances_val2017.json")
    with pytest.raises(InputError, match="no annotations to judge by"):
        evaluate_files(val, val)
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no annotations to train on"):
        configure_datasets(make_cfg(root, ("train2017",)))


def test_byte_order_mark(write_folder, small_content: dict, make_cfg):
    root = write_folder(train2017=small_content)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(small_content), encoding="utf-8-sig")
    configure_datasets(make_cfg(root, ("train2017",)))
    assert len(DatasetCatalog.get(TRAIN)) == 2


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_clean_data_are_as_detectron2_reads_them(coco_tiny, split: str, caplog):
    json_file = str(coco_tiny / "annotations" / f"instances_{split}.json")
    root = str(coco_tiny / split)
    with caplog.at_level(logging.WARNING, logger="lambda_det"):
        ours = load_coco(json_file, root)
    assert not caplog.records
    theirs = load_coco_json(json_file, root, "as_detectron2_reads")
    for image in theirs:
        for annotation in image["annotations"]:
            mask = annotation["segmentation"]
            if isinstance(mask, dict) and isinstance(mask["counts"], bytes):
                mask["counts"] = mask["counts"].decode()
    assert ours == theirs


def test_missing_images(write_folder, small_content: dict, make_cfg, log):
    """They refuse the training, with the way on; then the check of image files leaves them out."""
    root = write_folder(train2017=small_content)
    (root / "train2017" / "a.jpg").unlink()
    cfg = make_cfg(root, ("train2017",))
    with pytest.raises(InputError, match=r"a\.jpg.*1 of the 2.*DATALOADER\.SKIP_UNREADABLE True"):
        configure_datasets(cfg.clone())
    cfg.DATALOADER.SKIP_UNREADABLE = True
    configure_datasets(cfg)
    assert [Path(image["file_name"]).name for image in training_images(cfg)] == ["b.jpg"]
    lines = [line for line in warnings(log) if "are left out" in line]
    assert len(lines) == 1 and "1 of the 2 image files" in lines[0]
