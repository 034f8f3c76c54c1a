"""The mapper: broken images, greyscale, crowds, and a jitter that keeps masks in place."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from lambda_det.data import (
    LambdaDatasetMapper,
    build_test_loader,
    build_train_loader,
    configure_datasets,
    register_coco_folder,
)
from lambda_det.data.jitter import InstanceFixedSizeCrop, JitteredResize, large_scale_jitter
from lambda_det.errors import InputError, one_line

GREEN = (0, 200, 0)


@pytest.fixture
def mapper_of(make_cfg):
    """A mapper for masks in a format, with or without large-scale jitter."""

    def make(mask_format: str = "bitmask", lsj: tuple | None = None, is_train: bool = True, **keys):
        cfg = make_cfg()
        cfg.INPUT.MASK_FORMAT = mask_format
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (100,), 100
        if lsj is not None:
            cfg.INPUT.LSJ.ENABLED = True
            cfg.INPUT.LSJ.SCALE, cfg.INPUT.LSJ.SIZE = lsj
        for key, value in keys.items():
            cfg.merge_from_list([key, value])
        return LambdaDatasetMapper(cfg, is_train)

    return make


@pytest.fixture
def one_image(tmp_path: Path):
    """A record of a 90 x 120 picture, with a green rotated box on dark ground as its object."""

    def make(mask_format: str = "bitmask", *, integers: bool = False, name: str = "p.png") -> dict:
        corners = np.array([(40.0, 18.0), (95.0, 30.0), (80.0, 70.0), (25.0, 58.0)])
        flat = corners.reshape(-1).tolist()
        codes = mask_util.frPyObjects([flat], 90, 120)[0]
        picture = np.full((90, 120, 3), 20, np.uint8)
        picture[mask_util.decode(codes).astype(bool)] = GREEN
        path = tmp_path / name
        cv2.imwrite(str(path), picture)
        convert = int if integers else float
        return {
            "file_name": str(path),
            "height": 90,
            "width": 120,
            "image_id": 1,
            "annotations": [
                {
                    "bbox": [convert(v) for v in mask_util.toBbox(codes)],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": 0,
                    "iscrowd": 0,
                    "segmentation": (
                        codes if mask_format == "bitmask" else [[convert(v) for v in flat]]
                    ),
                }
            ],
        }

    return make


# ---- reading ----


def test_training_output(one_image, mapper_of):
    record = one_image()
    mapped = mapper_of()(record)
    assert mapped["image"].dtype == torch.uint8
    assert mapped["image"].shape == (3, 100, 133)
    assert len(mapped["instances"]) == 1
    assert "annotations" in record  # the dataset's own record is left as it was
    assert isinstance(record["annotations"][0]["bbox"], list)


def test_test_output(one_image, mapper_of):
    mapped = mapper_of(is_train=False)(one_image())
    assert set(mapped) == {"file_name", "height", "width", "image_id", "image"}
    assert (mapped["height"], mapped["width"]) == (90, 120)


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg"])
def test_greyscale(one_image, mapper_of, name: str):
    record = one_image(name=name)
    grey = cv2.imread(record["file_name"], cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(record["file_name"], grey)
    image = mapper_of(**{"INPUT.MIN_SIZE_TRAIN": (90,), "INPUT.RANDOM_FLIP": "none"})(record)[
        "image"
    ]
    assert image.shape == (3, 90, 120)
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "absent", "half a png"])
@pytest.mark.parametrize("is_train", [True, False])
def test_broken_image(one_image, mapper_of, damage: str, is_train: bool):
    record = one_image(name="p.png" if damage == "half a png" else "p.jpg")
    path = Path(record["file_name"])
    content = path.read_bytes()
    if damage in ("truncated", "half a png"):
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("this is no picture\nat all")
    else:
        path.unlink()
    with pytest.raises(InputError, match="cannot be read") as error:
        mapper_of(is_train=is_train)(record)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is not None


def test_wrong_size(one_image, mapper_of):
    record = one_image()
    record["width"] = 121
    with pytest.raises(InputError, match=r"p\.png is 120 x 90 pixels.*121 x 90") as error:
        mapper_of()(record)
    assert error.value.__cause__ is not None


def test_broken_image_in_a_worker(write_folder, small_content: dict, make_cfg):
    """The one line survives the way out of a data-loader process."""
    root = write_folder(val2017=small_content)
    broken = root / "val2017" / "b.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    cfg = make_cfg(root, (), ("val2017",))
    cfg.DATALOADER.NUM_WORKERS = 1
    configure_datasets(cfg)
    with pytest.raises(InputError) as error:
        list(build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    assert one_line(error.value).startswith(f"image {broken} cannot be read")


# ---- annotations ----


def test_no_annotations(one_image, mapper_of):
    for mask_format in ("bitmask", "polygon"):
        for lsj in (None, ((0.5, 1.5), (64, 96))):
            record = {**one_image(), "annotations": []}
            instances = mapper_of(mask_format, lsj)(record)["instances"]
            assert len(instances) == 0
            assert instances.gt_boxes.tensor.shape == (0, 4)
            assert len(instances.gt_masks) == 0
            assert instances.gt_classes.dtype == torch.int64


def test_crowd_is_left_out(one_image, mapper_of):
    record = one_image()
    crowd = dict(record["annotations"][0], iscrowd=1, category_id=3)
    counts = [0, 90 * 120]
    crowd["segmentation"] = mask_util.frPyObjects({"counts": counts, "size": [90, 120]}, 90, 120)
    for mask_format in ("bitmask", "polygon"):
        record = one_image(mask_format)
        record["annotations"].insert(0, crowd)
        instances = mapper_of(mask_format, ((0.5, 1.5), (64, 96)))(record)["instances"]
        assert 3 not in instances.gt_classes.tolist()


def test_rle_with_polygon_format(one_image, mapper_of):
    with pytest.raises(InputError, match=r"p\.png.*'polygon'; set it to 'bitmask'"):
        mapper_of("polygon")(one_image("bitmask"))


def test_rle_of_another_size(one_image, mapper_of):
    record = one_image()
    record["annotations"][0]["segmentation"]["size"] = [120, 90]
    with pytest.raises(InputError, match=r"\[120, 90\], the image \[90, 120\]"):
        mapper_of()(record)


def test_object_without_mask(one_image, mapper_of):
    record = one_image()
    del record["annotations"][0]["segmentation"]
    with pytest.raises(InputError, match="no segmentation"):
        mapper_of()(record)
    assert len(mapper_of(**{"MODEL.MASK_ON": False})(record)["instances"]) == 1


@pytest.mark.parametrize("integers", [False, True])
def test_polygon_of_integers(one_image, mapper_of, integers: bool):
    """Coordinates that the json has as integers are not cut after scaling."""
    keys = {"INPUT.MIN_SIZE_TRAIN": (97,), "INPUT.RANDOM_FLIP": "none"}
    instances = mapper_of("polygon", **keys)(one_image("polygon", integers=integers))["instances"]
    scale = np.array([129 / 120, 97 / 90])
    expected = np.array([(40, 18), (95, 30), (80, 70), (25, 58)]) * scale
    np.testing.assert_allclose(instances.gt_masks.polygons[0][0].reshape(-1, 2), expected)
    left, top, right, bottom = instances.gt_boxes.tensor[0].tolist()
    assert left == pytest.approx(25 * scale[0], abs=1e-3)
    assert bottom == pytest.approx(70 * scale[1], abs=1e-3)
    assert (right - left) / (bottom - top) == pytest.approx(70 * scale[0] / 52 / scale[1], rel=1e-3)


# ---- large-scale jitter ----


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
        picture = mapped["image"].numpy().astype(int)
        green = (picture[1] > 110) & (picture[0] < 90) & (picture[2] < 90)
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
    picture = np.zeros((2, 400, 3), np.uint8)
    resize = JitteredResize(0.1, 0.1, 64, 64).get_transform(picture)
    assert resize.apply_image(picture).shape == (1, 6, 3)
    crop = InstanceFixedSizeCrop(crop_size=(64, 64)).get_transform(resize.apply_image(picture))
    assert crop.apply_image(resize.apply_image(picture)).shape == (64, 64, 3)


def test_jitter_only_in_training(one_image, mapper_of):
    mapped = mapper_of("bitmask", ((0.1, 2.0), (64, 64)), is_train=False)(one_image())
    assert mapped["image"].shape == (3, 100, 133)


def test_without_jitter_augmentations_are_detectron2s(mapper_of):
    kinds = [type(a) for a in mapper_of().augmentations.augs]
    assert kinds == [T.ResizeShortestEdge, T.RandomFlip]
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


# ---- whole datasets ----


def check_instances(mapped: dict) -> int:
    """Masks lie in their boxes and inside the picture; returns the number of objects."""
    instances = mapped["instances"]
    assert instances.image_size == tuple(mapped["image"].shape[1:])
    assert len(instances.gt_boxes) == len(instances.gt_masks) == len(instances.gt_classes)
    masks = instances.gt_masks
    tight = masks.get_bounding_boxes().tensor if len(instances) else torch.zeros(0, 4)
    torch.testing.assert_close(instances.gt_boxes.tensor, tight)
    assert (tight >= 0).all()
    assert (tight[:, 2] <= instances.image_size[1]).all()
    assert (tight[:, 3] <= instances.image_size[0]).all()
    return len(instances)


def test_jitter_on_shapes(shapes: Path, mapper_of):
    np.random.seed(2)
    mapper = mapper_of("bitmask", ((0.1, 2.0), (128, 192)))
    records = DatasetCatalog.get(register_coco_folder(str(shapes), "train2017"))
    assert sum(check_instances(mapper(record)) for record in records) > len(records)


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_jitter_on_real_images(coco_tiny: Path, mapper_of, mask_format: str):
    np.random.seed(2)
    mapper = mapper_of(mask_format, ((0.1, 2.0), (192, 256)))
    records = DatasetCatalog.get(register_coco_folder(str(coco_tiny), "train2017"))
    assert sum(check_instances(mapper(record)) for record in records[:25]) > 50


def test_loaders(shapes: Path, make_cfg):
    cfg = make_cfg(shapes, ("train2017",), ("val2017",))
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    configure_datasets(cfg)
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 3
    assert all(len(mapped["instances"]) for mapped in batch)  # pictures without objects left out
    ids = [image["image_id"] for (image,) in build_test_loader(cfg, cfg.DATASETS.TEST[0])]
    content = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
    assert ids == [image["id"] for image in content["images"]]
