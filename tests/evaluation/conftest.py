"""A small dataset for tests of the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances


@pytest.fixture(scope="session")
def real(coco_tiny: Path) -> dict[str, dict]:
    """The annotations of coco_tiny by split; tests must not change them."""
    return {
        split: json.loads((coco_tiny / "annotations" / f"instances_{split}.json").read_text())
        for split in ("train2017", "val2017")
    }


@pytest.fixture
def content() -> dict:
    """Two images of 40 x 30, three objects of two classes, one a crowd; ids that are not 1, 2."""
    square = [[4, 6, 14, 6, 14, 14, 4, 14]]
    annotations = [
        {"id": 5, "image_id": 8, "category_id": 7, "bbox": [4, 6, 10, 8], "area": 80},
        {"id": 6, "image_id": 3, "category_id": 2, "bbox": [4, 6, 10, 8], "area": 80},
        {"id": 7, "image_id": 3, "category_id": 2, "bbox": [20, 0, 20, 30], "area": 600},
    ]
    for annotation in annotations:
        annotation |= {"iscrowd": 0, "segmentation": square}
    annotations[2] |= {
        "iscrowd": 1,
        "segmentation": {"size": [30, 40], "counts": [600, 600]},
    }
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 30, "width": 40} for i in (8, 3, 11)
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}],
    }


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Callable[[dict], str]]:
    """Registers a json with detectron2, as people do, and returns the name of the dataset."""
    names = []

    def register(content: dict) -> str:
        names.append(f"registered_{len(names)}")
        path = tmp_path / f"{names[-1]}.json"
        path.write_text(json.dumps(content))
        register_coco_instances(names[-1], {}, str(path), str(tmp_path))
        DatasetCatalog.get(names[-1])  # sets the classes
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
