"""The table "I have … → I write …" of docs/weights.md: each row runs, on files written here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import PathHandler, PathManager
from framework_files import ADDRESSES, FILES, msra, torchvision_state, zoo_detector
from PIL import Image
from torch import Tensor

from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import build_detector, lambda_resnet_arguments
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.addresses import MIRROR_VARIABLE
from lambda_det.checkpoint.translation import read_and_translate
from lambda_det.commands import convert_weights
from lambda_det.configs import load_config

pytestmark = pytest.mark.slow  # builds networks for each row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "weights.md"
HEADER = "| I have | → I write |"
CONFIGS = {v: f"mask_rcnn_{v}R_50_FPN_3x.yaml" for v in ("", "se_", "lambda_")}
OTHERS = ("resnetrs50", "MSRA", "folded", "lambda_resnet", "output/")  # not of torchvision_state
RANDOM = re.compile(r"res[2-5]\.\d+\.(lambda_layer|lambda_norm|se)\.")


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(HEADER)) + 2
    end = next(i for i, line in enumerate(lines) if i >= start and not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


class Zoo(PathHandler):
    """``detectron2://``, whose files are written when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _get_supported_prefixes(self) -> list[str]:
        return ["detectron2://"]

    def _get_local_path(self, path: str, **kwargs) -> str:
        file = self.folder / path.partition("://")[2].replace("/", "-")
        if not file.exists() and "MSRA" in path:
            msra(file)
        elif not file.exists():
            zoo_detector(file, 101 if "R_101" in path else 50)
        return str(file)

    def _isfile(self, path: str, **kwargs) -> bool:
        return True

    def _open(self, path: str, mode: str = "r", **kwargs):
        return open(self._get_local_path(path), mode)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the working directory; addresses lead to files of the test."""
    monkeypatch.chdir(tmp_path)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(MIRROR_VARIABLE, str(mirror))
    monkeypatch.setattr(PathManager, "_path_handlers", dict(PathManager._path_handlers))
    PathManager.register_handler(Zoo(mirror), allow_override=True)
    generator = np.random.default_rng(0)
    (tmp_path / "IMAGES").mkdir()
    for index in range(2):
        pixels = generator.integers(0, 256, (48, 65, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "IMAGES" / f"{index}.png")
    return tmp_path


def make_what_it_names(words: list[str], place: Path) -> None:
    """Write the files and addresses among the words of a command."""
    for word in words:
        file = word.partition("#")[0]
        if file in FILES and not (place / file).exists():
            FILES[file](place / file)
        if word in ADDRESSES:
            ADDRESSES[word](place / "mirror" / f"{word.partition('://')[2]}.pth")


def assert_torchvisions(name: str, tensors: Mapping[str, Tensor]) -> None:
    """The tensors are those of the seed: not of another average, network or file."""
    if not any(part in name for part in OTHERS):
        expected = torchvision_state()["layer3.1.conv1.weight"]
        assert torch.equal(tensors["res4.1.conv1.weight"], expected)


def run_convert(words: list[str]) -> None:
    """What the command writes is a whole network."""
    assert convert_weights.main(words) == 0
    written = read_and_translate(words[-1])
    network = build_lambda_resnet(**written.architecture(), out_features=("res5",))
    coverage = load_weights(network, words[-1])
    assert coverage.share() == 1 and not coverage.random()
    assert_torchvisions(words[-2], network.state_dict())


def run_train(words: list[str]) -> None:
    """Everything is loaded into the whole detector but SE and lambda layers."""
    assert words[0] == "--config-file"
    cfg = load_config(words[1], [*words[2:], "MODEL.DEVICE", "cpu"])
    coverage = load_weights(build_detector(cfg), cfg.MODEL.WEIGHTS, cfg=cfg)
    is_plain = cfg.MODEL.LAMBDA_RESNET.VARIANT == "resnet"
    assert "roi_heads.mask_head.predictor.weight" in coverage.loaded
    assert all(RANDOM.match(name) and not is_plain for name in coverage.random())


def run_load(words: list[str]) -> None:
    """Everything is loaded into R, and into SE and λ all but SE and lambda layers; what this
    project wrote fills the λ network that it was written from."""
    path = words[words.index("MODEL.WEIGHTS") + 1]
    own, mine = path.startswith("output/"), path.startswith("output/mine/")
    for variant in ["lambda_"] if own else CONFIGS:
        cfg = load_config(CONFIGS[variant], [*words, "MODEL.DEVICE", "cpu"])
        arguments = lambda_resnet_arguments(cfg)
        network = build_detector(cfg) if mine else build_lambda_resnet(**arguments)
        coverage = load_weights(network, path, cfg=cfg, complete=mine)
        assert len(coverage.loaded) > 200
        assert all(RANDOM.match(name) and variant and not own for name in coverage.random())
        assert_torchvisions(path, network.state_dict())


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row[0]) for row in rows()],
)
def test_row(row: list[str], place: Path) -> None:
    commands = [shlex.split(code) for code in re.findall(r"`([^`]+)`", row[1])]
    assert commands
    for words in commands:
        make_what_it_names(words, place)
        if words[0] in ("convert_weights", "train_net"):
            {"convert_weights": run_convert, "train_net": run_train}[words[0]](words[1:])
        else:
            run_load(words)
