"""Data loaders: detectron2's, with our mapper."""

from __future__ import annotations

from collections.abc import Iterable

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader

from lambda_det.data.mapper import LambdaDatasetMapper
from lambda_det.data.training_images import training_images


def build_train_loader(cfg: CfgNode) -> Iterable[list[dict]]:
    """An endless loader over ``DATASETS.TRAIN`` that gives lists of mapped images.

    Raises:
        InputError: see :func:`~lambda_det.data.training_images.training_images`.
    """
    images = training_images(cfg)
    return build_detection_train_loader(cfg, mapper=LambdaDatasetMapper(cfg, True), dataset=images)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
    """A loader that gives every image of ``dataset_name`` once, in order, in lists of one."""
    return build_detection_test_loader(cfg, dataset_name, mapper=LambdaDatasetMapper(cfg, False))
