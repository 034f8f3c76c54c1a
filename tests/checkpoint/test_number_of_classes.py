"""The number of classes that a file of weights tells apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lambda_det.checkpoint.loading import number_of_classes
from lambda_det.errors import InputError


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"roi_heads.box_predictor.cls_score.weight": (6, 3)}, 5),
        ({"roi_heads.box_predictor.0.cls_score.weight": (81, 3)}, 80),  # a cascade's
        ({"head.cls_score.weight": (9 * 7, 3, 1, 1), "head.bbox_pred.weight": (36, 3, 1, 1)}, 7),
        ({"head.cls_score.weight": (9 * 7, 3, 1, 1)}, None),
        ({"proposal_generator.rpn_head.conv.weight": (3, 3, 1, 1)}, None),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_of_heads(tmp_path: Path, shapes: dict, expected: int | None, wrapper: str):
    tensors = {wrapper + name: torch.ones(shape) for name, shape in shapes.items()}
    torch.save({"model": tensors}, tmp_path / "w.pth")
    assert number_of_classes(str(tmp_path / "w.pth")) == expected


def test_a_file_that_is_not_there():
    with pytest.raises(InputError, match=r"MODEL\.WEIGHTS='none\.pth'"):
        number_of_classes("none.pth")
