"""Files of weights."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import torch

from studies.corpus.case import LEFT_BY_A_START, Command, Group
from studies.corpus.files import train, write_folder

case = Group("weights")


class Code:
    """Pickled, it makes a folder when it is read without care."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "ran")

    def __reduce__(self):
        return os.mkdir, (self._path,)


def _add(title: str, write: Callable[[Path], object], says: str, name: str = "w.pth") -> None:
    """A case of ``convert_weights.py``; ``write(path)`` makes the file, or gives its bytes."""

    @case(title, says)
    def make(folder: Path) -> Command:
        path = folder / name
        content = write(path)
        if isinstance(content, bytes):
            path.write_bytes(content)
        return Command("convert_weights", [str(path), str(folder / "converted.pth")])


def _saved(content: object, cut: float = 1.0, *, is_zip: bool = True) -> Callable[[Path], bytes]:
    def write(path: Path) -> bytes:
        value = content(path.parent) if isinstance(content, FunctionType) else content
        torch.save(value, path, _use_new_zipfile_serialization=is_zip)
        whole = path.read_bytes()
        return whole[: int(len(whole) * cut)]

    return write


def _safetensors(path: Path) -> bytes:
    """As the format's own description has it; the package is not asked for."""
    header = b'{"w":{"dtype":"F32","shape":[300],"data_offsets":[0,1200]}}'
    return len(header).to_bytes(8, "little") + header + bytes(1200)


def _resnet50(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The first tensors of torchvision's."""
    some = {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}
    some["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    some["layer1.0.conv3.weight"] = torch.zeros(256, 64, 1, 1)
    return some | changes


_RESNET18 = {"layer1.0.conv1.weight": torch.zeros(64, 64, 3, 3), "conv1.weight": torch.zeros(1)}
_WEIGHTS = {"model": {"w": torch.rand(500)}}

_add("0 bytes", lambda path: b"", "w.pth: is empty")
_add("cut in half", _saved(_WEIGHTS, 0.5), "is truncated; the end of the checkpoint is missing")
_add("cut in half, of an old PyTorch", _saved(_WEIGHTS, 0.5, is_zip=False), "truncated or damaged")
_add("text", lambda path: b"just some words, no weights", "is not a checkpoint; expected .pth")
_add("a web page", lambda path: b"<!DOCTYPE html><title>404", "is a web page, not a checkpoint")
_add("a Git LFS pointer", lambda path: b"version https://git-lfs.github.com/spec", "git lfs pull")
_add(
    "a checkpoint with code",
    _saved(lambda folder: {"model": Code(folder)}),
    "refused, because it refers to",
)
_add("a checkpoint with code, of an old PyTorch",
     _saved(lambda folder: {"model": Code(folder)}, is_zip=False), "refused, because")  # fmt: skip
_add("a pickle with code", lambda path: pickle.dumps({"w": Code(path.parent)}),
     "no code in it was run", "w.pkl")  # fmt: skip
_add("a whole model, pickled", _saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear")
_add("safetensors that are cut", lambda path: _safetensors(path)[:700], "truncated or damaged",
     "w.safetensors")  # fmt: skip
_add("safetensors with a header of 2^62 bytes",
     lambda path: (2**62).to_bytes(8, "little") + b"{}", "truncated or damaged",
     "w.safetensors")  # fmt: skip
_add("no weights in it", _saved({"epoch": 3}), "contains no weights: its entries are 'epoch'")
_add(
    "names of no network",
    _saved({"model": {"a.b": torch.zeros(3)}}),
    "whose tensor names are supported",
)
_add("a ResNet-18", _saved(_RESNET18), "has basic blocks (ResNet-18, ResNet-34)")
_add("a ResNet-50 with most tensors missing", _saved(_resnet50()), "has [1, 0, 0, 0] blocks in")
_add("NaN", _saved(_resnet50(**{"bn1.weight": torch.full((64,), torch.nan)})), "contain NaN or Inf")
_add("a tensor of a terabyte, from 4 bytes", _saved({"model": {"w": torch.zeros(1).expand(2**38)}}),
     "an expanded view")  # fmt: skip
_add("a folder", lambda path: path.mkdir(), "is a folder, expected a checkpoint file")
_add("not there", lambda path: None, "w.pth: no such file")


@case(
    "of another model, for a training",
    "no tensor in the file fits the model",
    left=LEFT_BY_A_START,
)
def other_model(folder: Path) -> Command:
    write_folder(folder)
    torch.save({"model": {"other": torch.zeros(3)}}, folder / "w.pth")
    small = "MODEL.LAMBDA_RESNET.DEPTH 26 MODEL.ROI_BOX_HEAD.FC_DIM 16".split()
    return train(folder, "MODEL.WEIGHTS", folder / "w.pth", *small, whole=True)


@case("the name ends in .txt", "expected a name that ends in .pth or .safetensors")
def other_name(folder: Path) -> Command:
    (folder / "w.pth").write_bytes(b"")
    return Command("convert_weights", [str(folder / "w.pth"), str(folder / "converted.txt")])
