"""Datasets: a folder in, the batches of a training out.

``reading`` makes clean content of a folder, ``images`` reads and checks image files, and
``registering`` gives the datasets of a config to detectron2; the modules here at the top make
batches of them. ``checking`` is the command ``check_data``, and ``generated`` draws datasets.
"""

from lambda_det.data.generated.shapes import generate_shapes, shapes_statistics
from lambda_det.data.generated.shapes_folder import generate_shapes_folder
from lambda_det.data.loaders import (
    build_test_loader,
    build_train_loader,
    detection_test_loader,
    training_loader,
)
from lambda_det.data.mapper import LambdaDatasetMapper
from lambda_det.data.registering.coco_folder import register_coco_folder
from lambda_det.data.registering.config_datasets import configure_datasets
from lambda_det.data.registering.datasets import Datasets, resolve_datasets

__all__ = [
    "Datasets",
    "LambdaDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "configure_datasets",
    "detection_test_loader",
    "generate_shapes",
    "generate_shapes_folder",
    "register_coco_folder",
    "resolve_datasets",
    "shapes_statistics",
    "training_loader",
]
