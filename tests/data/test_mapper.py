"""The mapper: broken images, greyscale, annotations, crowds, and the loaders around it."""

from __future__ import annotations

import json
from multiprocessing import active_children
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from lambda_det.data import build_test_loader, build_train_loader, configure_datasets
from lambda_det.data.mapper import WITH_MASK
from lambda_det.errors import InputError, exit_on_input_error

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
        path.write_text("this is no image\nat all")
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


def test_broken_image_in_a_worker(write_folder, small_content: dict, make_cfg, capsys):
    """The error of a data-loader worker reaches the user as the same line, and leaves no worker."""
    root = write_folder(val2017=small_content)
    broken = root / "val2017" / "b.jpg"
    cfg = make_cfg(root, (), ("val2017",))
    cfg.DATALOADER.NUM_WORKERS = 1
    configure_datasets(cfg)
    loader = build_test_loader(cfg, cfg.DATASETS.TEST[0])
    broken.write_bytes(broken.read_bytes()[:200])  # after the check of all files
    assert exit_on_input_error(lambda: list(loader))() == 2
    assert capsys.readouterr().err.startswith(f"error: image {broken} cannot be read")
    assert not active_children()


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


def test_rle_of_another_size(one_image, mapper_of):
    record = one_image()
    record["annotations"][0]["segmentation"]["size"] = [120, 90]
    with pytest.raises(InputError, match=r"\[120, 90\], the image \[90, 120\]"):
        mapper_of()(record)


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_object_without_mask(one_image, mapper_of, mask_format: str):
    record = one_image(mask_format)
    record["annotations"].append({**record["annotations"][0]})
    keys = {"INPUT.RANDOM_FLIP": "none"}
    both = mapper_of(mask_format, **keys)(record)["instances"]
    assert not both.has(WITH_MASK)
    del record["annotations"][1]["segmentation"]
    instances = mapper_of(mask_format, **keys)(record)["instances"]
    assert instances.get(WITH_MASK).tolist() == [True, False]
    assert instances.gt_boxes.tensor.tolist() == both.gt_boxes.tensor.tolist()
    jitter = mapper_of(mask_format, ((1.0, 1.0), (90, 120)), **keys)(record)["instances"]
    assert jitter.get(WITH_MASK).tolist() == [True, False]  # whose boxes are those of the masks
    assert (jitter.gt_boxes.tensor[0] - jitter.gt_boxes.tensor[1]).abs().max() <= 1
    assert len(mapper_of(**{"MODEL.MASK_ON": False})(record)["instances"]) == 2


@pytest.mark.parametrize("integers", [False, True])
def test_polygon_of_integers(one_image, mapper_of, integers: bool):
    """Coordinates stored as integers in the json are not truncated after scaling."""
    keys = {"INPUT.MIN_SIZE_TRAIN": (97,), "INPUT.RANDOM_FLIP": "none"}
    instances = mapper_of("polygon", **keys)(one_image("polygon", integers=integers))["instances"]
    scale = np.array([129 / 120, 97 / 90])
    expected = np.array([(40, 18), (95, 30), (80, 70), (25, 58)]) * scale
    np.testing.assert_allclose(instances.gt_masks.polygons[0][0].reshape(-1, 2), expected)
    left, top, right, bottom = instances.gt_boxes.tensor[0].tolist()
    assert left == pytest.approx(25 * scale[0], abs=1e-3)
    assert bottom == pytest.approx(70 * scale[1], abs=1e-3)
    assert (right - left) / (bottom - top) == pytest.approx(70 * scale[0] / 52 / scale[1], rel=1e-3)


# ---- loaders ----


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_loaders(shapes: Path, make_cfg, mask_format: str):
    """The shapes have polygons and RLE, which both formats read."""
    cfg = make_cfg(shapes, ("train2017",), ("val2017",))
    cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.MASK_FORMAT = 3, mask_format
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    configure_datasets(cfg)
    batch = next(iter(build_train_loader(cfg)))
    assert len(batch) == 3
    assert all(len(mapped["instances"]) for mapped in batch)  # images without objects left out
    ids = [image["image_id"] for (image,) in build_test_loader(cfg, cfg.DATASETS.TEST[0])]
    content = json.loads((shapes / "annotations" / "instances_val2017.json").read_text())
    assert ids == [image["id"] for image in content["images"]]
