"""Helpers for several tests of lambda_det/data."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from detectron2.structures import BoxMode

from lambda_det.data import configure_datasets
from lambda_det.errors import InputError, one_line

TRAIN, VAL = "coco_folder_train2017", "coco_folder_val2017"
HEIGHT, WIDTH = 300, 400  # of the records below


def single_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert one_line(error.value) == text
    return text


def refusal(cfg) -> str:
    """The one line with which the datasets of a config are refused."""
    with pytest.raises(InputError) as error:
        configure_datasets(cfg)
    return single_line(error)


def warnings(log) -> list[str]:
    return [r.getMessage() for r in log.records if r.levelno >= logging.WARNING]


def corner_boxes(count: int = 40) -> np.ndarray:
    """(count, 4) x1, y1, x2, y2 of objects all over the image, about 100 pixels large."""
    rng = np.random.default_rng(0)
    centres = rng.uniform((60, 60), (WIDTH - 60, HEIGHT - 60), (count, 2))
    sides = rng.uniform(40, 110, (count, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def pixel_boxes(count: int = 40) -> np.ndarray:
    boxes = corner_boxes(count)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def images(boxes: np.ndarray, mode=BoxMode.XYWH_ABS, category_id: int = 0, **more) -> list[dict]:
    """Images in detectron2's dataset format with two boxes each."""
    record = {"height": HEIGHT, "width": WIDTH}
    entries = [
        {"bbox": list(map(float, box)), "bbox_mode": mode, "category_id": category_id, **more}
        for box in boxes
    ]
    return [
        {**record, "image_id": i, "annotations": entries[i : i + 2]}
        for i in range(0, len(entries), 2)
    ]
