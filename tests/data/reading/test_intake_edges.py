"""What the intake must not let through: wrong masks, stale answers, two rules for one dataset."""

from __future__ import annotations

import copy
import json

import pycocotools.mask as mask_util
import pytest
from data_helpers import TRAIN, warnings
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from odd_entries import SQUARE, rle

from lambda_det.commands import check_data
from lambda_det.data import configure_datasets
from lambda_det.data.reading import intake
from lambda_det.data.reading.coco_json import clean_coco
from lambda_det.errors import InputError
from lambda_det.evaluation import evaluate_files
from lambda_det.evaluation.coco import CocoMetricsEvaluator
from lambda_det.evaluation.ground_truth import GroundTruth


def with_mask(content: dict, segmentation: object) -> dict:
    """The json with another mask of its first annotation."""
    content = copy.deepcopy(content)
    content["annotations"][0]["segmentation"] = segmentation
    return content


@pytest.mark.parametrize(
    "segmentation",
    [
        [[[5, 5, 15, 5, 15, 15], [30, 20, 35, 20, 35, 25]]],
        [[[5, 5, 0], [15, 5, 0], [15, 15, 0]]],
        [[4, 6, 14, 6, 14, 14], 5],
        [[1e6, 6, 14, 6, 14, 14]],
    ],
)
def test_what_is_no_polygon_is_refused(small_content: dict, segmentation):
    content = with_mask(small_content, segmentation)
    with pytest.raises(InputError, match=r"annotation id 1 of a\.jpg has a segmentation that"):
        clean_coco(content, "a.json")


def test_broken_masks_of_one_id(small_content: dict):
    """Ids that occur twice are mended; no mask escapes its check by that."""
    for annotation in small_content["annotations"]:
        annotation |= {"id": 0, "image_id": 1, "segmentation": rle()}
    assert len(clean_coco(copy.deepcopy(small_content), "a.json").annotations) == 2
    small_content["annotations"][0]["segmentation"]["counts"] = rle()["counts"][:-2]
    with pytest.raises(InputError, match=r"annotation id 0 of a\.jpg.*not a complete RLE"):
        clean_coco(small_content, "a.json")


def test_a_registered_dataset_is_read_by_the_same_rule(write_folder, small_content, make_cfg):
    root = write_folder(train2017=small_content)
    file = root / "annotations" / "instances_train2017.json"
    content = with_mask(small_content, SQUARE)
    del content["annotations"][1]["bbox"]
    file.write_text(json.dumps(content))
    name = "registered_by_a_user"
    register_coco_instances(name, {}, str(file), str(root / "train2017"))
    try:
        configure_datasets(make_cfg("", (name,)))
        images = DatasetCatalog.get(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert [image["annotations"][0]["bbox"] for image in images] == [[4, 6, 10, 8]] * 2
    assert all(str(root) not in file.path for file in intake._waiting)


def test_an_image_that_comes_later(write_folder, small_content: dict):
    root = write_folder(train2017=small_content)
    image = root / "train2017" / "a.jpg"
    content = image.read_bytes()
    image.unlink()
    where = str(root / "annotations" / "instances_train2017.json"), str(root / "train2017")
    with pytest.raises(InputError, match=r"a\.jpg"):
        intake.summarize_coco(*where)
    image.write_bytes(content)
    assert intake.summarize_coco(*where).num_objects == 2


def test_objects_without_a_mask_reach_no_further_than_their_image(small_content: dict):
    second = small_content["annotations"][1]
    second |= {"segmentation": [], "bbox": [-30, -20, 390, 290]}
    masks = GroundTruth(clean_coco(small_content, "a.json")).coco("segm").anns
    assert mask_util.area(masks[2]["segmentation"]) == 30 * 40


def test_predictions_of_a_part_of_the_images(small_content: dict, tmp_path, log):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    small_content["images"] += [{**small_content["images"][0], "id": i} for i in (3, 4, 5)]
    truth.write_text(json.dumps(small_content))
    found.write_text(json.dumps([{"image_id": 1, "category_id": 7, "bbox": [4, 6, 10, 8],
                                  "score": 1}]))  # fmt: skip
    evaluate_files(str(truth), str(found))
    assert any("are of 1 of the 5 images" in line for line in warnings(log))


def test_more_objects_than_detections(write_folder, small_content, make_cfg, log):
    one = small_content["annotations"][0]
    small_content["annotations"] = [{**one, "id": i} for i in range(1, 8)]
    cfg = make_cfg(write_folder(val2017=small_content), (), ("val2017",))
    for limit, count in ((7, 0), (-1, 0), (6, 1)):
        log.clear()
        cfg.TEST.DETECTIONS_PER_IMAGE = limit
        configure_datasets(cfg.clone())
        lines = [line for line in warnings(log) if "TEST.DETECTIONS_PER_IMAGE" in line]
        assert len(lines) == count
    assert "a.jpg has 7 objects, and TEST.DETECTIONS_PER_IMAGE is 6" in lines[0]


def test_ids_of_images_may_be_numbers_and_text(small_content: dict, tmp_path, log):
    second = small_content["images"][1]
    second["id"] = small_content["annotations"][1]["image_id"] = "b"
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(small_content))
    found.write_text(json.dumps([{**a, "score": 1} for a in small_content["annotations"]]))
    assert evaluate_files(str(truth), str(found))["segm"]["AP"] == pytest.approx(100)
    assert not warnings(log)
    second["id"] = "1"
    with pytest.raises(InputError, match="image ids '1' and 1 are one id as text and as a number"):
        clean_coco(small_content, "a.json")


def test_a_size_that_neither_json_nor_file_says(write_folder, small_content: dict):
    root = write_folder(train2017=small_content)
    small_content["images"][1]["height"] = -1
    (root / "train2017" / "b.jpg").unlink()
    with pytest.raises(InputError, match=r"image id 2 has height -1 .*b\.jpg does not exist\)$"):
        clean_coco(small_content, "a.json", str(root / "train2017"))


@pytest.mark.parametrize("given", [{}, {"height": None, "width": None}])
def test_without_size_and_file(write_folder, small_content, make_cfg, log, given: dict):
    """The fault is named, and SKIP_UNREADABLE leaves the image out everywhere."""
    root = write_folder(train2017=small_content)
    (root / "train2017" / "b.jpg").unlink()
    small_content["images"][1] = {"id": 2, "file_name": "b.jpg", **given}
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(small_content))
    with pytest.raises(InputError, match=r"image id 2 has height None .*b\.jpg does not exist\)$"):
        configure_datasets(make_cfg(root, (TRAIN,)))
    cfg = make_cfg(root, (TRAIN,))
    cfg.DATALOADER.SKIP_UNREADABLE = True
    configure_datasets(cfg)
    assert [line for line in warnings(log) if "images[1]: its file" in line and "left out" in line]
    (name,) = cfg.DATASETS.TRAIN
    assert [image["image_id"] for image in DatasetCatalog.get(name)] == [1]
    truth = CocoMetricsEvaluator(name, ("bbox",), str(root))._ground_truth
    assert [*truth.coco("bbox").imgs] == [1]


def test_a_point_on_the_first_one_makes_no_line(small_content: dict):
    """Only the vector to the farthest point tells the direction of a line."""
    content = with_mask(small_content, [[0, 0, 10, 0, 1e-9, 0, 0, 10]])
    assert len(clean_coco(content, "a.json").annotations) == 2


def test_a_bow_tie_is_no_line(small_content: dict):
    """Its area is 0 by the shoelace formula, and its pixels can be learned."""
    content = with_mask(small_content, [[4, 6, 14, 14, 14, 6, 4, 14]])
    assert len(clean_coco(content, "a.json").annotations) == 2


def test_check_data_reads_a_json_once(write_folder, small_content: dict, monkeypatch):
    root = write_folder(train2017=small_content)
    read, load = [], json.load
    monkeypatch.setattr(json, "load", lambda file: read.append(file.name) or load(file))
    path = str(root / "annotations" / "instances_train2017.json")
    assert check_data.main([path]) == 0
    assert read == [path]
