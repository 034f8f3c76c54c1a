"""The training images are filtered and checked, and resized as the checks assume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_helpers import images, pixel_boxes, single_line, warnings
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T

from lambda_det.configs import load_config
from lambda_det.data import build_train_loader, configure_datasets, generate_shapes
from lambda_det.data.training_images import training_images, training_resize
from lambda_det.errors import InputError


def slow_factor(height, width, cfg) -> tuple[float, float]:
    """The smallest and the largest factor by detectron2's own transforms."""
    image = np.zeros((height, width, 3), np.uint8)
    scales = []
    if cfg.INPUT.LSJ.ENABLED:
        size = cfg.INPUT.LSJ.SIZE
        resizes = [T.ResizeScale(s, s, *size) for s in cfg.INPUT.LSJ.SCALE]
    else:
        resizes = [
            T.ResizeShortestEdge(s, cfg.INPUT.MAX_SIZE_TRAIN) for s in cfg.INPUT.MIN_SIZE_TRAIN
        ]
    for resize in resizes:
        scales.append(resize.get_transform(image).apply_image(image).shape[0] / height)
    return min(scales), max(scales)


@pytest.mark.parametrize("lsj", [False, True])
@pytest.mark.parametrize(("height", "width"), [(91, 133), (200, 64), (50, 400)])
def test_factors_are_those_of_the_transforms(height, width, lsj, make_cfg):
    cfg = make_cfg()
    cfg.INPUT.LSJ.ENABLED = lsj
    cfg.INPUT.LSJ.SCALE, cfg.INPUT.LSJ.SIZE = (0.5, 2.0), (120, 170)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (80, 120), 250
    sizes = np.array([height]), np.array([width])
    found = [float(factor[0]) for factor in training_resize(cfg).factors(*sizes)]
    assert found == pytest.approx(slow_factor(height, width, cfg), abs=1.01 / height)


# ---- through the loader ----


def test_nothing_is_left_after_filtering(make_cfg):
    name = "images_without_objects"
    found = [{**image, "annotations": []} for image in images(pixel_boxes())]
    DatasetCatalog.register(name, lambda: found)
    try:
        cfg = make_cfg("", (name,))
        with pytest.raises(InputError) as error:
            build_train_loader(cfg)
        text = single_line(error)
        assert f"DATASETS.TRAIN ('{name}',)" in text and "3 points" in text
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_a_registered_dataset_without_metadata_is_checked(make_cfg):
    name = "objects_of_python"
    DatasetCatalog.register(name, lambda: images(pixel_boxes(), category_id=90))
    try:
        cfg = make_cfg("", (name,))
        configure_datasets(cfg)
        with pytest.raises(InputError, match="class id 90, but the model has 80 classes"):
            build_train_loader(cfg)
        cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"  # only tells objects from background
        build_train_loader(cfg)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def test_no_training_set(make_cfg):
    with pytest.raises(InputError, match=r"DATASETS\.TRAIN is empty"):
        training_images(make_cfg())


# ---- no false alarm ----


def shipped_configs(project: Path) -> list[Path]:
    folders = ("COCO-Detection", "COCO-InstanceSegmentation", "quick")
    return sorted(path for f in folders for path in (project / "configs" / f).glob("*.yaml"))


@pytest.mark.parametrize("images", ["shapes", "coco_tiny"])
def test_shipped_configs_are_silent(images, project, tmp_path, request, log):
    if images == "coco_tiny":
        folder = request.getfixturevalue("coco_tiny")
    else:
        folder = tmp_path / images
        generate_shapes(folder, num_train=24, num_val=1, seed=0)
    paths = shipped_configs(project)
    assert len(paths) > 10
    for path in paths:
        overrides = ["DATASETS.COCO_FOLDER", str(folder)]
        cfg = load_config(str(path), [*overrides, "DATASETS.TEST", "()"])
        configure_datasets(cfg)
        training_images(cfg)
    assert not warnings(log)
