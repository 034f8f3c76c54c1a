"""What a project that has detectron2 and no tool of ours starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_stock_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from stock_helpers import FPN, SMALL, stock_configs

from lambda_det import add_lambda_config
from lambda_det.data import generate_shapes


@pytest.fixture(scope="session")
def stock_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock") / "shapes"
    generate_shapes(folder, num_train=4, num_val=2, seed=0)
    return folder


@pytest.fixture(scope="session")
def stock_datasets(stock_folder: Path):
    """Names of a training and a test set, registered as detectron2's tutorial has it."""
    names = {"train2017": "stock_train", "val2017": "stock_val"}
    for split, name in names.items():
        annotations = stock_folder / "annotations" / f"instances_{split}.json"
        register_coco_instances(name, {}, str(annotations), str(stock_folder / split))
        DatasetCatalog.get(name)  # fills in the classes
    yield tuple(names.values())
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="session")
def stock_config() -> Callable[..., CfgNode]:
    """(file among detectron2's configs, KEY, VALUE, …) -> detectron2's config with our backbone.

    ``prepare`` adds the keys of another project.
    """

    def make(name: str, *overrides: object, prepare: Callable | None = None) -> CfgNode:
        cfg = get_stock_cfg()
        add_lambda_config(cfg)
        if prepare is not None:
            prepare(cfg)
        cfg.merge_from_file(str(stock_configs() / name))
        cfg.merge_from_list([*SMALL, *FPN, *map(str, overrides)])
        return cfg

    return make


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(64, 80, 3), BGR in 0 to 255."""
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
