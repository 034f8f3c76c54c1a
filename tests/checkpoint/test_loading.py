"""MODEL.WEIGHTS: addresses of other handlers, and the heads in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager
from torch import nn

from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.loading import numbers_of_heads
from lambda_det.errors import InputError


class _Folder(PathHandler):
    """``folder-of-the-test://name``: what a user, or a later version, may register."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _get_supported_prefixes(self) -> list[str]:
        return ["folder-of-the-test://"]

    def _get_local_path(self, path: str, **kwargs) -> str:
        return str(self.root / path.partition("://")[2])

    def _isfile(self, path: str, **kwargs) -> bool:
        return Path(self._get_local_path(path)).is_file()

    def _open(self, path: str, mode: str = "r", **kwargs):
        return open(self._get_local_path(path), mode)


def test_address_that_a_handler_knows(tmp_path: Path) -> None:
    PathManager.register_handler(_Folder(tmp_path), allow_override=True)
    model, other = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    torch.save({"model": other.state_dict()}, tmp_path / "model.pth")
    load_weights(model, "folder-of-the-test://model.pth", complete=True)
    assert torch.equal(model.weight, other.weight)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pth'?: no such file"):
        load_weights(nn.Conv2d(1, 1, 1), str(tmp_path / "none.pth"))


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
def test_number_of_classes_of_a_file(tmp_path: Path, shapes: dict, expected: int | None) -> None:
    tensors = {f"module.{name}": torch.ones(shape) for name, shape in shapes.items()}
    torch.save({"model": tensors}, tmp_path / "w.pth")
    assert numbers_of_heads(str(tmp_path / "w.pth"))[0] == expected
