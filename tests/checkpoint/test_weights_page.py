"""The table "I have … → I write …" of docs/weights.md: each row runs, on files written here.

``COMES_WITH`` names the rows whose part of the code is not there yet.
"""

from __future__ import annotations

import functools
import pickle
import re
import shlex
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathHandler, PathManager
from PIL import Image
from test_folded_norms import folded
from test_resnet_parity import DLi14Layer, caffe2_name
from torch import Tensor, nn

from lambda_det import get_config
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

COMES_WITH = {
    "a COCO detector of detectron2's zoo, for R": "the configs for fine-tuning",
    "the same for SE and λ": "the configs for fine-tuning",
    "a checkpoint of Lightning": "stand-ins for unknown classes",
    "a checkpoint of mmdet, mmpretrain or mmengine (`style='pytorch'`)": "stand-ins",
    "DINO's full checkpoint (student and teacher)": "the choice of a network",
    "MoCo's two encoders": "the choice of a network",
}
"""Row -> what the row waits for. When that is there, its mark must be removed."""


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(HEADER)) + 2
    end = next(i for i, line in enumerate(lines) if i >= start and not line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


# The files, under the names that the page has.


def torchvision_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None).state_dict()


def with_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def unknown_object() -> object:
    """Of a class that whoever reads the file does not have."""
    module = types.ModuleType("a_training_framework")
    module.Settings = type("Settings", (), {"__module__": module.__name__})
    sys.modules[module.__name__] = module  # pickle looks the class up
    settings = module.Settings()
    settings.values = {"lr": 0.1}
    return settings


def save(path: Path, content: object) -> None:
    torch.save(content, path)
    sys.modules.pop("a_training_framework", None)


def save_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file({n: t.clone() for n, t in state.items()}, path, metadata={"format": "pt"})


def timm_network(name: str) -> nn.Module:
    return pytest.importorskip("timm", reason="timm is not installed").create_model(name)


def timm_train(path: Path) -> None:
    from argparse import Namespace

    state = torchvision_state()
    averaged = {n: t + 1 if t.is_floating_point() else t for n, t in state.items()}
    save(path, {"state_dict": averaged, "state_dict_ema": state, "args": Namespace(), "epoch": 299})


def lightning(path: Path) -> None:
    state = with_prefix("model.", torchvision_state())
    extras = {"hyper_parameters": unknown_object(), "pytorch-lightning_version": "2.5.0"}
    save(path, {"state_dict": state, "optimizer_states": [{}], "epoch": 99, **extras})


def mmengine(path: Path) -> None:
    state = with_prefix("backbone.", torchvision_state())
    state["bbox_head.fc_cls.weight"] = torch.ones(81, 8)
    save(path, {"meta": {"epoch": 12}, "state_dict": state, "message_hub": unknown_object()})


def dino(path: Path) -> None:
    teacher = with_prefix("module.backbone.", torchvision_state())
    student = {n: t + 1 if t.is_floating_point() else t for n, t in teacher.items()}
    save(path, {"student": student, "teacher": teacher, "args": unknown_object(), "epoch": 800})


def moco(path: Path, *, both: bool) -> None:
    state = {n: t for n, t in torchvision_state().items() if not n.startswith("fc.")}
    query = with_prefix("module.encoder_q.", state)
    key = {n.replace("_q.", "_k."): t + 1 if t.is_floating_point() else t for n, t in query.items()}
    save(path, {"epoch": 800, "arch": "resnet50", "state_dict": query | (key if both else {})})


def folded_file(path: Path) -> None:
    torch.manual_seed(0)
    network = build_lambda_resnet(50, "resnet", stem="v1").double().eval()
    theirs = {}
    for name, tensor in folded(network).items():
        name = name.replace("shortcut", "downsample.0").replace("stem.", "")
        theirs[re.sub(r"res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)] = tensor.float()
    assert {"conv1.bias", "layer1.0.downsample.0.bias", "layer4.2.conv3.bias"} <= theirs.keys()
    torch.save(theirs, path)


def dli14(path: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    for index in range(1, 5):
        for block in getattr(network, f"layer{index}"):
            block.conv2 = DLi14Layer(block.conv2.in_channels, block.conv2.stride[0])
    torch.save({"state_dict": with_prefix("module.", network.state_dict())}, path)


def pretraining(path: Path) -> None:
    torch.manual_seed(0)
    state = build_lambda_resnet(50, "lambda", num_classes=10).state_dict()
    images = {"image_format": "RGB", "pixel_mean": [123.675, 116.28, 103.53]}
    images["pixel_std"] = [58.395, 57.12, 57.375]
    path.parent.mkdir(parents=True)
    torch.save({"model": state, "metadata": images | {"classes": list("abcdefghij")}}, path)


def detector(path: Path) -> None:
    torch.manual_seed(0)
    cfg = get_config("mask_rcnn_lambda_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    path.parent.mkdir(parents=True)
    torch.save({"model": build_detector(cfg).state_dict(), "iteration": 89}, path)


FILES: dict[str, Callable[[Path], None]] = {
    "resnet50-0676ba61.pth": lambda path: torch.save(torchvision_state(), path),
    "resnet50.pth": lambda path: torch.save(torchvision_state(), path),
    "model.safetensors": lambda path: save_safetensors(path, torchvision_state()),
    "lambda_resnet26t.safetensors": lambda path: save_safetensors(
        path, timm_network("lambda_resnet26t").state_dict()
    ),
    "lambda_resnet50.pth": dli14,
    "checkpoint-299.pth.tar": timm_train,
    "epoch=99-step=125100.ckpt": lightning,
    "epoch_12.pth": mmengine,
    "checkpoint-500/model.safetensors": lambda path: (
        path.parent.mkdir(),
        save_safetensors(path, with_prefix("timm_model.", torchvision_state())),
    ),
    "dino_resnet50.pth": dino,
    "moco.pth.tar": functools.partial(moco, both=True),
    "moco_v2_800ep_pretrain.pth.tar": functools.partial(moco, both=False),
    "folded.pth": folded_file,
    "output/pretrain/model_final_ema.pth": pretraining,
    "output/mine/model_final.pth": detector,
}

ADDRESSES: dict[str, Callable[[Path], None]] = {
    "torchvision://resnet50": lambda path: torch.save(torchvision_state(), path),
    "torchvision://resnet50.IMAGENET1K_V2": lambda path: torch.save(torchvision_state(), path),
    "timm://resnet50.a1_in1k": lambda path: torch.save(torchvision_state(), path),
    "timm://resnetrs50.tf_in1k": lambda path: torch.save(
        timm_network("resnetrs50").state_dict(), path
    ),
}


def msra(path: Path) -> None:
    torch.manual_seed(0)
    state = build_lambda_resnet(50, "resnet", stem="v1", stride_in_1x1=True).state_dict()
    arrays = {caffe2_name(n): t.numpy() for n, t in state.items() if "num_batches" not in n}
    path.write_bytes(pickle.dumps(arrays, protocol=2))


def zoo_detector(path: Path, depth: int) -> None:
    torch.manual_seed(0)
    cfg = get_config(f"mask_rcnn_R_{depth}_FPN_3x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.BACKBONE.NAME = "cpu", "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    state = {name: tensor.numpy() for name, tensor in build_model(cfg).state_dict().items()}
    content = {"model": state, "__author__": "Detectron2 Model Zoo"}
    path.write_bytes(pickle.dumps(content, protocol=4))


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
    [
        pytest.param(
            row,
            id=row[0],
            marks=[pytest.mark.xfail(strict=True, reason=f"comes with {COMES_WITH[row[0]]}")]
            if row[0] in COMES_WITH
            else [],
        )
        for row in rows()
    ],
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


def test_every_mark_is_of_a_row() -> None:
    assert COMES_WITH.keys() <= {row[0] for row in rows()}
