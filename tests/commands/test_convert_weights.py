"""The command convert_weights: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import lambda_resnet_arguments
from lambda_det.checkpoint import load_weights
from lambda_det.commands import convert_weights


@pytest.fixture(scope="module")
def convert():
    """The command with arguments."""
    return lambda *arguments: convert_weights.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("in") / "resnet50.pth"
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), file)
    return file


def config_file(folder: Path, **keys) -> Path:
    lines = ["MODEL:", "  LAMBDA_RESNET:", *(f"    {k}: {v}" for k, v in keys.items())]
    (folder / "c.yaml").write_text("\n".join(lines) + "\n")
    return folder / "c.yaml"


def test_pth(convert, resnet50: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.pth"
    assert convert("--source", "torchvision", resnet50, out) == 0
    source = torch.load(resnet50, weights_only=True)
    saved = torch.load(out, weights_only=True)
    assert torch.equal(saved["model"]["stem.conv1.weight"], source["conv1.weight"])
    assert torch.equal(saved["model"]["res5.2.conv3.weight"], source["layer4.2.conv3.weight"])
    assert torch.equal(saved["model"]["linear.bias"], source["fc.bias"])
    assert saved["matching_heuristics"] is True and saved["__author__"] == "lambda_det"
    metadata = saved["lambda_det"]
    assert metadata["architecture"] == {
        "depth": 50, "variant": "resnet", "stem": "v1", "num_classes": 1000, "stride_in_1x1": False
    }  # fmt: skip
    assert metadata["images"]["channel_order"] == "RGB"
    text = capsys.readouterr().out
    assert "res5" in text and "RGB" in text and "100" in text

    # the line that it prints builds the network that it converted
    line = next(line for line in text.splitlines() if line.startswith("config: "))
    cfg = get_cfg()
    cfg.merge_from_list(shlex.split(line.removeprefix("config: ")))
    network = build_lambda_resnet(**lambda_resnet_arguments(cfg))
    assert load_weights(network, str(out)).share() == 1


def test_what_is_left_out_of_a_detector_is_said(convert, resnet50, tmp_path, capsys) -> None:
    state = torch.load(resnet50, weights_only=True)
    state = {f"backbone.{name}": tensor for name, tensor in state.items() if "fc." not in name}
    state |= {"neck.conv.weight": torch.ones(1), "neck.conv.bias": torch.ones(1)}
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    assert convert(tmp_path / "detector.pth", tmp_path / "out.pth") == 0
    line = "2 tensors outside of the backbone are left out (first: neck.conv.weight)"
    assert line in capsys.readouterr().out
    assert convert(resnet50, tmp_path / "out.pth") == 0
    assert "left out" not in capsys.readouterr().out


def test_safetensors_and_back(convert, resnet50: Path, tmp_path: Path) -> None:
    safe_open = pytest.importorskip("safetensors", reason="safetensors is missing").safe_open
    out, again = tmp_path / "out.safetensors", tmp_path / "again.pth"
    assert convert(resnet50, out) == 0
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["lambda_det"])["architecture"]["depth"] == 50
    assert convert("--source", "lambda_det", out, again) == 0
    first = torch.load(resnet50, weights_only=True)
    saved = torch.load(again, weights_only=True)
    assert torch.equal(saved["model"]["stem.conv1.weight"], first["conv1.weight"])
    assert saved["lambda_det"]["images"]["pixel_mean"] == [123.675, 116.28, 103.53]


def test_partial_initialisation_as_a_file(convert, resnet50: Path, tmp_path: Path, capsys) -> None:
    """For stock trainers: what the λ-network has a place for, fitted to the config's images."""
    keys = {"DEPTH": 50, "VARIANT": "lambda", "STEM": "v1"}
    config, out = config_file(tmp_path, **keys), tmp_path / "out.pth"
    assert convert("--config-file", config, resnet50, out) == 2
    assert "PARTIAL_INIT" in capsys.readouterr().err and not out.exists()
    pairs = ["MODEL.LAMBDA_RESNET.PARTIAL_INIT", "True"]
    pairs += ["MODEL.LAMBDA_RESNET.PARTIAL_INIT_AS_IDENTITY", "True"]
    assert convert("--config-file", config, resnet50, out, *pairs) == 0
    text = capsys.readouterr().out
    assert (
        "not in the file, stays random: res2.[0,1,2].se.*" in text
        and "res5.[0,1,2].lambda_layer.*" in text
    )
    tensors = torch.load(out, weights_only=True)["model"]
    assert not torch.any(tensors["res5.1.conv3.norm.weight"])
    assert torch.all(tensors["res4.1.conv3.norm.weight"] == 1)
    assert "res5.1.conv2.weight" not in tensors and "linear.weight" not in tensors
    # get_cfg's images are detectron2's: BGR, standard deviation 1
    source = torch.load(resnet50, weights_only=True)["conv1.weight"]
    scale = torch.tensor([57.375, 57.12, 58.395])[:, None, None]
    assert torch.allclose(tensors["stem.conv1.weight"] * scale, source.flip(1))


def test_windows_are_padded(convert, tmp_path: Path) -> None:
    network = build_lambda_resnet(50, "lambda", scope=9)
    torch.save(network.state_dict(), tmp_path / "in.pth")
    assert convert(tmp_path / "in.pth", tmp_path / "out.pth", "--scope", 23) == 0
    saved = torch.load(tmp_path / "out.pth", weights_only=True)
    embedding = saved["model"]["res5.1.lambda_layer.embedding"]
    assert embedding.shape == (16, 1, 23, 23) and saved["lambda_det"]["architecture"]["scope"] == 23
    assert torch.equal(embedding[..., 7:-7, 7:-7], network.res5[1].lambda_layer.embedding)
    assert embedding.count_nonzero() == 16 * 81


@pytest.fixture(scope="module")
def damaged(resnet50: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Case -> file."""
    tmp_path = tmp_path_factory.mktemp("damaged")
    state = torch.load(resnet50, weights_only=True)
    cases = {
        "half": dict(list(state.items())[::2]),
        "deeper stage gone": {n: t for n, t in state.items() if not n.startswith("layer4.2")},
        "unknown": {"blocks.0.weight": torch.ones(3)},
    }
    for name, tensors in cases.items():
        torch.save(tensors, tmp_path / f"{name}.pth")
    return {path.stem: path for path in tmp_path.glob("*.pth")}


WORDS = {
    "half": "--min-coverage",
    "deeper stage gone": "[3, 4, 6, 2] blocks",
    "unknown": "no network whose tensor names are supported",
}


@pytest.mark.parametrize("case", WORDS)
def test_damaged_files(case: str, convert, damaged, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out" / "w.pth"
    out.parent.mkdir()
    assert convert(damaged[case], out, "--min-coverage", 1) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and WORDS[case] in errors[0] and damaged[case].name in errors[0]
    assert not list(out.parent.iterdir())


def test_threshold(convert, damaged, tmp_path: Path, capsys) -> None:
    assert convert(damaged["half"], tmp_path / "w.pth", "--min-coverage", "0.1") == 0
    assert "stays random" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "timm", "--min-coverage", "90"], ["--min-coverage=90.0", "0 to 1"]),
        (["--source", "dli14"], ["--source torchvision or timm", "not dli14"]),
        (["--scope", "8"], ["--scope 8", "odd"]),
        (["MODEL.LAMBDA_RESNET.DEPTH", "50"], ["need --config-file"]),
        (["--config-file", "none.yaml"], ["none.yaml", "no such file"]),
    ],
)
def test_wrong_arguments(arguments, words, convert, resnet50, tmp_path: Path, capsys) -> None:
    assert convert(resnet50, tmp_path / "w.pth", *arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and all(word in line for word in words)


@pytest.mark.parametrize("name", ["w.pkl", "w", "none/w.pth"])
def test_outputs_that_cannot_be(name: str, convert, resnet50, tmp_path: Path, capsys) -> None:
    assert convert(resnet50, tmp_path / name) == 2
    assert name in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folded(resnet50: Path) -> Path:
    """The network with every BatchNorm folded into its convolution, as exports do."""
    network = torchvision.models.resnet50(weights=None).eval()
    network.load_state_dict(torch.load(resnet50, weights_only=True))
    for module in list(network.modules()):
        parts = dict(module.named_children())
        for conv, norm in (*((f"conv{i}", f"bn{i}") for i in (1, 2, 3)), ("0", "1")):
            if isinstance(parts.get(norm), torch.nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(parts[conv], parts[norm]))
                setattr(module, norm, torch.nn.Identity())
    file = resnet50.with_name("folded.pth")
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three sizes, in a folder and one below it, and one file that is damaged."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    generator = np.random.default_rng(0)
    for name, size in (("a.png", (60, 70)), ("b.jpg", (71, 53)), ("more/c.png", (64, 64))):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.slow
def test_folded_norms_are_measured(convert, folded, photographs, tmp_path: Path, capsys) -> None:
    plain, out = tmp_path / "plain.pth", tmp_path / "out.pth"
    assert convert(folded, plain) == 0
    assert "53 norms are without statistics" in capsys.readouterr().out
    keys = {"DEPTH": 50, "VARIANT": "resnet", "STEM": "v1"}
    config = config_file(tmp_path, **keys)
    config.write_text(config.read_text() + "INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 65}\n")
    pairs = ["MODEL.PIXEL_STD", "[58.395,57.12,57.375]"]
    pairs += ["MODEL.PIXEL_MEAN", "[123.675,116.28,103.53]"]
    assert convert("--measure-on", photographs, "--config-file", config, folded, out, *pairs) == 0
    printed = capsys.readouterr()
    assert "53 norms were measured on 3 RGB images, mean [123.675" in printed.out
    assert "without statistics" not in printed.out
    saved = torch.load(out, weights_only=True)["model"]
    assert saved.keys() == torch.load(plain, weights_only=True)["model"].keys() - {
        "linear.weight", "linear.bias"
    }  # fmt: skip
    networks = []
    for file in (plain, out):
        networks.append(build_lambda_resnet(50, "resnet", stem="v1", out_features=("res5",)))
        load_weights(networks[-1], str(file))
    x = torch.randn(2, 3, 65, 81)
    with torch.no_grad():
        a, b = (network.eval()(x)["res5"] for network in networks)
        assert (a - b).abs().max() < 1e-4 * a.abs().max()
        a, b = (network.train()(x)["res5"].flatten() for network in networks)
    assert torch.cosine_similarity(a, b, dim=0) < 0.9
    # What the command itself has written without measuring can be measured, too.
    assert convert("--measure-on", photographs, "--images", 1, plain, out) == 0
    assert "on 1 RGB images" in capsys.readouterr().out


def test_what_cannot_be_measured(convert, resnet50, folded, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    own, out = tmp_path / "own.pth", tmp_path / "out.pth"
    torch.save({"res2.0.conv1.weight": torch.ones(1), "res2.0.conv1.bias": torch.ones(1)}, own)
    for file, folder, words in (
        (resnet50, "empty", "every norm in the file has statistics"),
        (folded, "empty", "empty: contains no image that can be read"),
        (folded, "none", "none: no such folder"),
        (own, "empty", "own.pth: the format of its images is unknown"),
    ):
        assert convert("--measure-on", tmp_path / folder, file, out) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1 and words in errors[0] and not out.exists()
