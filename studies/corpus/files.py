"""Correct files for the cases to spoil, and the commands that read them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
from PIL import Image

from studies.corpus.case import PROJECT, Command

CONFIG = str(PROJECT / "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml")
HEIGHT, WIDTH = 30, 40

_CONTENT = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 2, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
    ],
    "annotations": [
        {
            "id": number,
            "image_id": number,
            "category_id": category_id,
            "iscrowd": 0,
            "bbox": [4, 6, 10, 8],
            "area": 80,
            "segmentation": [[4, 6, 14, 6, 14, 14, 4, 14]],
        }
        for number, category_id in ((1, 7), (2, 3))
    ],
    "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
}
_KEYS = ("image_id", "category_id", "bbox", "segmentation")


def content() -> dict:
    """A correct COCO json: two pictures, one object each, category ids 7 and 3."""
    return copy.deepcopy(_CONTENT)


def detections() -> list[dict]:
    """What finds both objects."""
    return [{k: a[k] for k in _KEYS} | {"score": 0.9} for a in content()["annotations"]]


def picture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Noise in colour."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def write_folder(folder: Path, value: object = None, name: str = "data") -> Path:
    """A folder in COCO layout with the split ``train2017``; ``value``: its json, or text for it."""
    value = content() if value is None else value
    root = folder / name
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    raw = value if isinstance(value, bytes) else text_of(value).encode()
    (root / "annotations" / "instances_train2017.json").write_bytes(raw)
    for number, image in enumerate(content()["images"]):
        picture(number).save(root / "train2017" / image["file_name"])
    return root


def train(folder: Path, *overrides: object, root: Path | None = None, **more) -> Command:
    """``train_net.py`` on ``folder/data``, into ``folder/out``."""
    root = folder / "data" if root is None else root
    words = ["--config-file", CONFIG, "DATASETS.COCO_FOLDER", root]
    words += ["DATASETS.TRAIN", "('train2017',)", "DATASETS.TEST", "()"]
    words += ["OUTPUT_DIR", folder / "out", "SOLVER.IMS_PER_BATCH", 1, *overrides]
    return Command("train_net", [str(word) for word in words], **more)


def train_json(folder: Path, value: object) -> Command:
    """A training on a json."""
    write_folder(folder, value)
    return train(folder)


def evaluate(folder: Path, truth: object = None, found: object = None, **more) -> Command:
    """``evaluate.py`` of a json and of detections; either may be text."""
    paths = folder / "truth.json", folder / "found.json"
    for path, value, usual in zip(paths, (truth, found), (content, detections), strict=True):
        value = usual() if value is None else value
        path.write_bytes(value if isinstance(value, bytes) else text_of(value).encode())
    words = ["--annotations", paths[0], "--predictions", paths[1]]
    words += ["--output", folder / "metrics.json"]
    return Command("evaluate", [str(word) for word in words], **more)


def draw(folder: Path, found: object = None) -> Command:
    """``draw_predictions.py`` of the pictures of ``folder/data``."""
    (folder / "found.json").write_text(text_of(detections() if found is None else found))
    root = folder / "data"
    words = ["--annotations", root / "annotations" / "instances_train2017.json"]
    words += ["--images", root / "train2017", "--predictions", folder / "found.json"]
    return Command("draw_predictions", [str(w) for w in [*words, "--output", folder / "p.png"]])
