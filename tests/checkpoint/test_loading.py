"""MODEL.WEIGHTS that cannot be read is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager
from torch import nn

from lambda_det.checkpoint import load_weights
from lambda_det.errors import InputError


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("torchvison://resnet101", "torchvison"),
        ("htpp://example.org/model.pth", "htpp"),
    ],
)
def test_address_of_an_unknown_kind(address: str, scheme: str) -> None:
    with pytest.raises(InputError) as error:
        load_weights(nn.Conv2d(1, 1, 1), address)
    message = str(error.value)
    assert f"MODEL.WEIGHTS='{address}'" in message and "\n" not in message
    assert f"'{scheme}://' are not supported" in message and "detectron2://" in message


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
