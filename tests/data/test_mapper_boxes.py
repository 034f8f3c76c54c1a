"""Boxes and masks under a crop: of polygons where the json has polygons, as in detectron2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, PolygonMasks
from detectron2.utils.events import EventStorage
from detectron2_objects import SCALE, SIZE, STORED, detectron2s_mapper, objects_of

from lambda_det import get_cfg
from lambda_det.data import LambdaDatasetMapper
from lambda_det.data.mapper import WITH_MASK
from lambda_det.errors import InputError

FORMATS = pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])


def mapper_of_crop(mask_format: str, *transforms: T.Transform) -> LambdaDatasetMapper:
    return LambdaDatasetMapper(
        is_train=True,
        augmentations=list(transforms),
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format=mask_format,
        recompute_boxes=True,
    )


def rle(left: int, top: int, right: int, bottom: int) -> dict:
    mask = np.zeros((90, 120), np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return mask_util.encode(mask)


def with_objects(record: dict, *segmentations: list | dict) -> dict:
    """The image with other objects, whose classes are numbered 0, 1, 2, ..."""
    (template,) = record["annotations"]
    objects = [
        {**template, "segmentation": s, "category_id": i} for i, s in enumerate(segmentations)
    ]
    return {**record, "annotations": objects}


# ---- boxes of real objects ----


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning")  # v0.5's
def test_objects_are_those_of_detectron2(coco_tiny: Path, mapper_of):
    """The same objects as from detectron2 main (stored) and from the installed detectron2."""
    ours = objects_of(mapper_of("polygon", (SCALE, SIZE)), coco_tiny)
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert sum(len(found["classes"]) for found in stored.values()) > 200
    for expected in (stored, objects_of(detectron2s_mapper(), coco_tiny)):
        assert ours.keys() == expected.keys()
        for image_id, found in ours.items():
            assert found["classes"] == expected[image_id]["classes"], image_id
            for key, atol in (("boxes", 2e-3), ("areas", 2e-2)):
                np.testing.assert_allclose(
                    found[key], expected[image_id][key], rtol=1e-5, atol=atol, err_msg=image_id
                )


# ---- what a crop leaves ----


@FORMATS
def test_box_of_all_pieces(one_image, mask_format: str):
    """A U cut above its bottom is two bars; their outer sides are the box."""
    left = [20.5, 70, 20.5, 10.25, 30.5, 10.25, 30.5, 60]
    letter = [[*left, 70.25, 60, 70.25, 20, 80.75, 20, 80.75, 70]]
    mapper = mapper_of_crop(mask_format, T.CropTransform(10, 5, 100, 40))
    instances = mapper(with_objects(one_image(), letter))["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[10.5, 5.25, 70.75, 40]]
    if mask_format == "polygon":
        assert len(instances.gt_masks.polygons[0]) == 2


@FORMATS
def test_what_a_crop_takes_away(one_image, mask_format: str):
    """An object outside, one that only touches the crop, one without area, and one inside."""
    square = [[12, 7, 30.5, 7, 30.5, 20, 12, 20]]
    record = with_objects(
        one_image(),
        [[80, 60, 110, 60, 110, 80]],
        [[50, 10, 60, 10, 60, 20, 50, 20]],
        [[15, 10, 25, 10, 20, 10]],
        square,
    )
    mapper = mapper_of_crop(mask_format, T.CropTransform(10, 5, 40, 40))
    instances = mapper(record)["instances"]
    assert instances.gt_classes.tolist() == [3]
    assert instances.gt_boxes.tensor.tolist() == [[2, 2, 20.5, 15]]
    empty = mapper(with_objects(one_image(), [[80, 60, 110, 60, 110, 80]]))["instances"]
    assert len(empty) == len(empty.gt_masks) == 0 and empty.gt_boxes.tensor.shape == (0, 4)


def test_thin_polygon(one_image):
    """Half a hundredth of a pixel: an object as a polygon, as in detectron2, and no pixel."""
    thin = [[20.3, 20.3, 40.2, 20.3, 40.2, 20.305, 20.3, 20.305]]
    crop = T.CropTransform(0, 0, 120, 90)
    for mask_format, count in (("polygon", 1), ("bitmask", 0)):
        instances = mapper_of_crop(mask_format, crop)(with_objects(one_image(), thin))["instances"]
        assert len(instances) == count


@pytest.mark.parametrize(
    "broken", [[30.0, 30.0, 60.0, 30.0, 60.0, 50.0], [[30.0, 30.0, 60.0, 30.0, 60.0, 50.0, 9.0]]]
)
def test_what_is_no_list_of_polygons_is_refused(one_image, broken):
    """A flat list and an odd number of coordinates raise an error; no object is lost silently."""
    mapper = mapper_of_crop("polygon", T.CropTransform(0, 0, 120, 90))
    with pytest.raises(InputError, match=r"image .*: a polygon is not a list x0, y0, x1, y1"):
        mapper(with_objects(one_image(), broken))


def test_boxes_of_the_json_where_nothing_is_cropped(one_image, mapper_of):
    """Boxes are recomputed under a crop only, as in detectron2."""
    record = one_image("polygon")
    record["annotations"][0]["bbox"] = [10.0, 10.0, 60.0, 30.0]
    keys = {"INPUT.MIN_SIZE_TRAIN": (90,), "INPUT.RANDOM_FLIP": "none"}
    instances = mapper_of("polygon", **keys)(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[10, 10, 70, 40]]
    crop = {"INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": [1.0, 1.0]}
    instances = mapper_of("polygon", **keys, **crop)(record)["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[25, 18, 95, 70]]


# ---- polygons and RLE ----


@FORMATS
def test_polygons_and_rle_in_one_image(one_image, mask_format: str):
    """All masks become bitmasks; the box of an object with polygons is that of its polygons."""
    ring = [10.25, 10.25, 50.75, 10.25, 50.75, 40.5, 10.25, 40.5]
    inner = [60.2, 50.2, 70.6, 50.2, 70.6, 60.6]
    record = with_objects(one_image(), [ring, inner], rle(30, 20, 90, 80))
    mapper = mapper_of_crop(mask_format, T.CropTransform(0, 0, 80, 90))
    instances = mapper(record)["instances"]
    assert isinstance(instances.gt_masks, BitMasks)
    expected = torch.tensor([[10.25, 10.25, 70.6, 60.6], [30, 20, 80, 80]])
    torch.testing.assert_close(instances.gt_boxes.tensor, expected)
    areas = instances.gt_masks.tensor.sum(dim=(1, 2)).tolist()
    assert areas[0] == pytest.approx(40.5 * 30.25 + 10.4**2 / 2, rel=0.05)  # whole pixels
    assert areas[1] == 50 * 60
    alone = mapper(with_objects(one_image(), [ring, inner]))["instances"].gt_masks
    assert isinstance(alone, PolygonMasks if mask_format == "polygon" else BitMasks)


@FORMATS
def test_polygons_of_two_points_are_left_out(one_image, mask_format: str):
    """A dataset that load_coco_json has not read may have short polygons."""
    whole, short = [30, 20, 60, 20, 60, 50.5], [30, 20, 90, 80]
    record = with_objects(one_image(), [short], [short, whole], [])
    for transforms in ((), (T.CropTransform(0, 0, 120, 90),)):
        instances = mapper_of_crop(mask_format, *transforms)(record)["instances"]
        assert instances.gt_classes.tolist() == [1, 2]
        assert instances.gt_boxes.tensor[0].tolist() == [30, 20, 60, 50.5]
        assert instances.get(WITH_MASK).tolist() == [True, False]  # one without a mask has its box


@pytest.mark.filterwarnings("ignore")
def test_a_batch_of_both_kinds_trains(one_image, mapper_of):
    """A model trains on images with polygons, with bitmasks and without objects in one batch."""
    cfg = get_cfg()
    cfg.merge_from_list(
        "MODEL.DEVICE cpu MODEL.MASK_ON True MODEL.BACKBONE.NAME build_lambda_resnet_fpn_backbone "
        "MODEL.LAMBDA_RESNET.DEPTH 26 MODEL.LAMBDA_RESNET.LAYER.SCOPE 5 MODEL.FPN.OUT_CHANNELS 16 "
        "MODEL.FPN.IN_FEATURES ['res2','res3','res4','res5'] "
        "MODEL.RPN.IN_FEATURES ['p2','p3','p4','p5','p6'] "
        "MODEL.ANCHOR_GENERATOR.SIZES [[16],[32],[64],[128],[256]] "
        "MODEL.ROI_HEADS.NAME StandardROIHeads MODEL.ROI_HEADS.NUM_CLASSES 2 "
        "MODEL.ROI_HEADS.IN_FEATURES ['p2','p3','p4','p5'] MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 "
        "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead MODEL.ROI_BOX_HEAD.NUM_FC 1 "
        "MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 7 "
        "MODEL.ROI_MASK_HEAD.NAME MaskRCNNConvUpsampleHead MODEL.ROI_MASK_HEAD.NUM_CONV 1 "
        "MODEL.ROI_MASK_HEAD.CONV_DIM 16".split()
    )
    polygon = one_image("polygon")["annotations"][0]["segmentation"]
    records = [
        with_objects(one_image(), polygon),
        with_objects(one_image(), polygon, rle(30, 20, 90, 80)),
        with_objects(one_image()),
    ]
    mapper = mapper_of("polygon", ((1.0, 1.0), (96, 128)))
    batch = [mapper(record) for record in records]
    kinds = [type(image["instances"].gt_masks) for image in batch]
    assert kinds == [PolygonMasks, BitMasks, PolygonMasks]
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    losses["loss_mask"].backward()
    gradient = model.roi_heads.mask_head.predictor.weight.grad
    assert gradient.isfinite().all() and gradient.any()
