"""Large-scale jitter keeps masks and boxes in place."""

from __future__ import annotations

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import transforms as T

from lambda_det.data.augmentations import InstanceFixedSizeCrop, KeepOnePixel, large_scale_jitter
from lambda_det.errors import InputError


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
@pytest.mark.parametrize("size", [(96, 160), (160, 96), (33, 65)])
@pytest.mark.parametrize("scale", [(0.1, 0.1), (2.0, 2.0), (0.1, 2.0), (1.0, 1.0)])
def test_jitter_keeps_masks_under_the_object(one_image, mapper_of, mask_format, size, scale):
    """The green pixels, the mask and the box are at the same place after every transformation."""
    np.random.seed(0)
    mapper = mapper_of(mask_format, (scale, size))
    seen = 0
    for _ in range(12):
        mapped = mapper(one_image(mask_format))
        height, width = mapped["image"].shape[1:]
        assert (height, width) == size
        image = mapped["image"].numpy().astype(int)
        green = (image[1] > 110) & (image[0] < 90) & (image[2] < 90)
        instances = mapped["instances"]
        if len(instances) == 0:
            assert green.sum() < 60
            continue
        seen += 1
        masks = instances.gt_masks
        if mask_format == "polygon":
            codes = mask_util.merge(
                mask_util.frPyObjects([p.tolist() for p in masks.polygons[0]], height, width)
            )
            mask = mask_util.decode(codes).astype(bool)
        else:
            mask = masks.tensor[0].numpy()
        # They may differ by the pixels along the outline (and where it meets the crop's edge).
        kernel, plain = np.ones((5, 5), np.uint8), mask.astype(np.uint8)
        inner = cv2.erode(plain, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
        outer = cv2.dilate(plain, kernel) > 0
        assert not (inner & ~green).any()
        assert not (green & ~outer).any()
        box = instances.gt_boxes.tensor[0].numpy()
        rows, columns = np.nonzero(mask)
        if len(rows):
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, tight, atol=0 if mask_format == "bitmask" else 1.01)
    assert seen >= 3


def test_jitter_pads_with_grey_that_is_no_object(one_image, mapper_of):
    record = one_image()
    whole = np.ones((90, 120), np.uint8, order="F")
    record["annotations"][0].update(segmentation=mask_util.encode(whole), bbox=[0, 0, 120, 90])
    mapped = mapper_of("bitmask", ((0.5, 0.5), (90, 200)), **{"INPUT.RANDOM_FLIP": "none"})(record)
    mask = mapped["instances"].gt_masks.tensor[0]
    assert mask[:45, :60].all()
    assert mask.sum() == 45 * 60  # the padding is not part of the mask
    assert (mapped["image"][:, 45:] == 128).all()
    assert (mapped["image"][:, :, 60:] == 128).all()
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, 60, 45]]


@pytest.mark.parametrize(
    ("stored", "mask_format"),
    [("bitmask", "bitmask"), ("polygon", "bitmask"), ("polygon", "polygon")],
)
def test_jitter_drops_what_is_cropped_away(one_image, mapper_of, stored: str, mask_format: str):
    np.random.seed(1)
    mapper = mapper_of(mask_format, ((8.0, 8.0), (32, 48)))
    counts = [len(mapper(one_image(stored))["instances"]) for _ in range(25)]
    assert set(counts) == {0, 1}


def test_jitter_of_a_thin_image():
    image = np.zeros((2, 400, 3), np.uint8)
    resize = KeepOnePixel(T.ResizeScale(0.1, 0.1, 64, 64)).get_transform(image)
    assert resize.apply_image(image).shape == (1, 6, 3)
    crop = InstanceFixedSizeCrop(crop_size=(64, 64)).get_transform(resize.apply_image(image))
    assert crop.apply_image(resize.apply_image(image)).shape == (64, 64, 3)


def test_jitter_only_in_training(one_image, mapper_of):
    mapped = mapper_of("bitmask", ((0.1, 2.0), (64, 64)), is_train=False)(one_image())
    assert mapped["image"].shape == (3, 100, 133)


def test_without_jitter_augmentations_are_detectron2s(mapper_of):
    resize, flip = mapper_of().augmentations.augs
    assert repr(resize).startswith("ResizeShortestEdge(") and type(flip) is T.RandomFlip
    assert not mapper_of().recompute_boxes
    assert mapper_of("bitmask", ((0.1, 2.0), (64, 64))).recompute_boxes


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
def test_flip_setting(flip: str):
    augmentations = large_scale_jitter(scale=(1, 1), size=(8, 8), flip=flip)
    flips = [a for a in augmentations if isinstance(a, T.RandomFlip)]
    assert [(f.horizontal, f.vertical) for f in flips] == (
        [] if flip == "none" else [(flip == "horizontal", flip == "vertical")]
    )


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"INPUT.LSJ.SCALE": (2.0, 0.1)}, r"INPUT\.LSJ\.SCALE \(2\.0, 0\.1\)"),
        ({"INPUT.LSJ.SCALE": (0.0, 1.0)}, r"INPUT\.LSJ\.SCALE"),
        ({"INPUT.LSJ.SCALE": (1.0,)}, r"INPUT\.LSJ\.SCALE"),
        ({"INPUT.LSJ.SIZE": (0, 64)}, r"INPUT\.LSJ\.SIZE \(0, 64\)"),
        ({"INPUT.LSJ.SIZE": (64, 64, 64)}, r"INPUT\.LSJ\.SIZE"),
        ({"INPUT.LSJ.SIZE": (64.5, 64)}, r"INPUT\.LSJ\.SIZE"),
        ({"INPUT.RANDOM_FLIP": "sideways"}, r"INPUT\.RANDOM_FLIP 'sideways'"),
        ({"INPUT.CROP.ENABLED": True}, r"INPUT\.CROP\.ENABLED and INPUT\.LSJ\.ENABLED"),
    ],
)
def test_wrong_jitter_values(mapper_of, keys: dict, text: str):
    with pytest.raises(InputError, match=text):
        mapper_of("bitmask", ((0.1, 2.0), (64, 64)), **keys)
