"""Small COCO-layout folders for the tests of the data room."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode

from lambda_det import get_cfg
from lambda_det.data import LambdaDatasetMapper, generate_shapes

GREEN = (0, 200, 0)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated dataset of 48 + 32 images; tests must not change it."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    generate_shapes(root, num_train=48, num_val=32, seed=3)
    return root


@pytest.fixture
def small_content() -> dict:
    """A correct COCO json: two images of 40 x 30, one object each, category ids 7 and 3."""
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
            {"id": 2, "file_name": "b.jpg", "height": 30, "width": 40},
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": category_id,
                "iscrowd": 0,
                "bbox": [4, 6, 10, 8],
                "area": 80,
                "segmentation": [[4, 6, 14, 6, 14, 14, 4, 14]],
            }
            for i, category_id in ((1, 7), (2, 3))
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a COCO folder with the splits given as keywords, and a grey image for each file."""

    def write(name: str = "folder", **splits: dict) -> Path:
        root = tmp_path / name
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        for split, content in splits.items():
            (root / split).mkdir(exist_ok=True)
            (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
            for image in content["images"]:
                pixels = np.full((image["height"], image["width"], 3), 90, np.uint8)
                cv2.imwrite(str(root / split / image["file_name"]), pixels)
        return root

    return write


@pytest.fixture
def export(tmp_path: Path, small_content: dict):
    """Writes a json whose images have names that begin with ``named``, and the images."""
    root = tmp_path / "my_data"

    def write(json_file: str, images: str, named: str = "", content: dict | None = None) -> Path:
        content = json.loads(json.dumps(content or small_content))
        folder = root / images
        folder.mkdir(parents=True, exist_ok=True)
        for image in content["images"]:
            pixels = np.full((image["height"], image["width"], 3), 90, np.uint8)
            cv2.imwrite(str(folder / image["file_name"]), pixels)
            image["file_name"] = named + image["file_name"]
        path = root / json_file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return root

    return write


@pytest.fixture
def make_cfg() -> Callable[..., object]:
    """A configuration whose datasets are given as keywords."""

    def make(folder: object = "", train: tuple = (), test: tuple = ()):
        cfg = get_cfg()
        cfg.DATASETS.COCO_FOLDER = str(folder)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
        cfg.MODEL.MASK_ON = True
        cfg.INPUT.MASK_FORMAT = "bitmask"
        cfg.DATALOADER.NUM_WORKERS = 0
        return cfg

    return make


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
    """The dataset dict of a 90 x 120 image whose object is a green rotated box on dark ground."""

    def make(mask_format: str = "bitmask", *, integers: bool = False, name: str = "p.png") -> dict:
        corners = np.array([(40.0, 18.0), (95.0, 30.0), (80.0, 70.0), (25.0, 58.0)])
        flat = corners.reshape(-1).tolist()
        codes = mask_util.frPyObjects([flat], 90, 120)[0]
        image = np.full((90, 120, 3), 20, np.uint8)
        image[mask_util.decode(codes).astype(bool)] = GREEN
        path = tmp_path / name
        cv2.imwrite(str(path), image)
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
