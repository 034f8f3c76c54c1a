"""Errors and warnings about the objects of a training set."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from data_helpers import HEIGHT, WIDTH, corner_boxes, images, pixel_boxes, single_line, warnings
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from lambda_det.data.training_set_checks import TrainingResize, check_images
from lambda_det.errors import InputError


def check(records: list[dict], **changes) -> None:
    arguments = {
        "resize": TrainingResize(short_sides=(300,)),
        "num_classes": 1,
        "anchor_sizes": (32, 64, 128, 256, 512),
    }
    check_images(records, ("the set",), **arguments | changes)


def refused(records: list[dict], **changes) -> str:
    with pytest.raises(InputError) as error:
        check(records, **changes)
    return single_line(error)


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
def test_ordinary_boxes_are_not_remarked_upon(mode, log):
    check(images(corner_boxes() if mode == BoxMode.XYXY_ABS else pixel_boxes(), mode))
    assert not log.records


def test_crowds_and_rotated_boxes_are_left_out():
    crowds = images(corner_boxes(), iscrowd=1)
    rotated = {"bbox": [9, 9, 5, 5, 30], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    check([{**crowds[0], "annotations": [rotated]}])  # nothing to judge by
    crowds[0]["annotations"] += [rotated, *images(pixel_boxes(1), category_id=7)[0]["annotations"]]
    assert "class id 7, but the model has 1" in refused(crowds)
    assert "no image has a usable object" in refused(images(pixel_boxes(), iscrowd=1))


# ---- the form of the boxes ----


def test_corners_for_widths_are_refused():
    text = refused(images(corner_boxes()))
    assert "corners x1, y1, x2, y2" in text and "of 40 boxes reach beyond their image" in text


def test_some_boxes_beyond_the_image_are_a_warning(log):
    boxes = pixel_boxes()
    boxes[:8, 0] += WIDTH
    check(images(boxes))
    (text,) = warnings(log)
    assert "8 of 40 boxes reach beyond" in text and "x, y, width, height in pixels" in text
    log.clear()
    boxes = pixel_boxes()
    boxes[:3, 0] += WIDTH  # a few slips of an annotator
    check(images(boxes))
    assert not warnings(log)


def test_few_boxes_may_look_like_corners_by_chance(log):
    check(images(corner_boxes(10)))
    (text,) = warnings(log)
    assert "10 of 10 would fit as corners" in text


def test_relative_boxes_are_refused(log):
    relative = pixel_boxes() / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    text = refused(images(relative))
    assert "all 40 boxes lie within 0 and 1" in text and "pixels are needed" in text
    check(images(np.concatenate([relative[:20], pixel_boxes()[20:]])))
    (text,) = warnings(log)
    assert "20 of 40 boxes lie within 0 and 1" in text


def test_boxes_without_a_side(log):
    boxes = pixel_boxes()
    boxes[:3, 2] = 0
    boxes[3, 3] = -5
    check(images(boxes))
    (text,) = warnings(log)
    assert "4 of 40 boxes have a width or height of 0 or less" in text
    boxes[:, 3] = 0
    assert "all 40 boxes have a width or height of 0 or less" in refused(images(boxes))


def test_boxes_that_are_not_numbers():
    boxes = pixel_boxes()
    boxes[5, 1] = np.nan
    assert "1 boxes are not finite" in refused(images(boxes))
    records = images(pixel_boxes(2))
    records[0]["annotations"][0]["bbox"][0] = 10**400
    assert "too large for a float" in refused(records)


# ---- sizes ----


def test_objects_below_a_pixel(log):
    boxes = pixel_boxes()
    boxes[:, 2:] /= 10  # 4 to 11 pixels
    check(images(boxes), anchor_sizes=())
    assert not warnings(log)
    small = TrainingResize(short_sides=(20, 24))
    text = refused(images(boxes), resize=small)
    assert "all 40 objects are narrower than a pixel" in text
    boxes[:30, 2:] *= 10
    check(images(boxes), resize=small, anchor_sizes=())
    (text,) = warnings(log)
    assert "10 of 40 objects are narrower than a pixel" in text and "INPUT.MIN_SIZE_TRAIN" in text


def test_anchors_that_no_object_fits(log):
    boxes = pixel_boxes()  # 40 to 110 pixels, anchors of 32 to 512
    check(images(boxes), resize=TrainingResize(short_sides=(30,)))  # 4 to 11
    (text,) = warnings(log)
    assert "40 of 40 objects are too small and 0 too large" in text
    assert "MODEL.ANCHOR_GENERATOR.SIZES has 32 to 512" in text
    log.clear()
    check(images(boxes), anchor_sizes=(4, 8))
    (text,) = warnings(log)
    assert "0 of 40 objects are too small and 40 too large" in text
    log.clear()
    # From 4 to 110 pixels: the larger scales suit the anchors, and that is enough.
    check(images(boxes), resize=TrainingResize(fit=((0.1, 1.0), (300, 400))))
    assert not warnings(log)


# ---- classes ----


def test_class_beyond_the_model():
    text = refused(images(pixel_boxes(), category_id=3), num_classes=3)
    assert "class id 3" in text and "3 classes (0 to 2)" in text
    assert "MODEL.ROI_HEADS.NUM_CLASSES" in text and "MODEL.RETINANET.NUM_CLASSES" in text
    assert "class id -1" in refused(images(pixel_boxes(), category_id=-1))


def test_classes_without_an_object_are_named(log):
    MetadataCatalog.get("the set").thing_classes = ["a", "b", "c"]
    check(images(pixel_boxes(), category_id=1), num_classes=3)
    MetadataCatalog.remove("the set")
    (record,) = log.records
    assert record.levelno == logging.INFO
    assert "2 of 3 classes have no object to learn from: a, c" in record.getMessage()
