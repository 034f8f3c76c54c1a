"""The command convert_weights: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import torchvision

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
