"""What several tests of the data room need."""

from __future__ import annotations

import pytest

from lambda_det.errors import one_line

TRAIN, VAL = "coco_folder_train2017", "coco_folder_val2017"


def single_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert one_line(error.value) == text
    return text
