"""The command analyze_model: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from lambda_det.analysis import detector
from lambda_det.analysis.flops import count_flops, total_flops
from lambda_det.commands import analyze_model
from lambda_det.layers import LambdaLayer

pytestmark = pytest.mark.slow  # builds or trains whole networks


@pytest.fixture
def tool(monkeypatch):
    """A function that runs the command with arguments and returns its status."""
    real = detector.measure_latency
    monkeypatch.setattr(
        detector, "measure_latency", lambda *inputs: real(*inputs, min_runs=2, seconds=0)
    )

    return lambda *arguments: analyze_model.main(list(map(str, arguments)))


def test_config(tool, project, tmp_path, capsys) -> None:
    config = project / "configs" / "COCO-InstanceSegmentation/mask_rcnn_lambda_R_101_FPN_lsj.yaml"
    # A detectron2 v0.5 may not know the norm of the recipe; GN has as many parameters.
    norms = ["MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_MASK_HEAD.NORM", "GN"]
    status = tool(
        "--config-file", config, "--size", 65, 90, "--output", tmp_path / "a.json",
        "MODEL.FPN.OUT_CHANNELS", 64,
        *norms,
    )  # fmt: skip
    assert status == 0
    assert "one image of 96 x 96" in capsys.readouterr().out  # FPN takes multiples of 32
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["command"].startswith("python tools/analyze_model.py --config-file ")
    (row,) = record["rows"]
    counts = row["parameters"]
    assert counts["backbone"] == 34_817_920 and counts["classifier_form"] == 36_866_920
    assert counts["total"] == counts["backbone"] + counts["neck"] + counts["heads"]
    # Lateral 1x1 and output 3x3 convolutions, BN behind each.
    laterals = sum(64 * channels for channels in (256, 512, 1024, 2048))
    assert counts["neck"] == laterals + 4 * 64 * 64 * 9 + 8 * 2 * 64
    macs = row["multiply_adds_by_part"]
    assert list(macs)[:6] == ["stem", "res2", "res3", "res4", "res5", "neck"]
    sizes = (24, 12, 6, 3)
    lateral = sum(64 * c * s * s for c, s in zip((256, 512, 1024, 2048), sizes, strict=True))
    assert macs["neck"] == lateral + sum(64 * 64 * 9 * s * s for s in sizes)
    assert {name for name in macs if name.startswith("heads")} == {
        "heads: rpn", "heads: box, 1000 regions", "heads: mask, 100 regions"
    }  # fmt: skip
    # RPN: two 3x3 convolutions, 3 objectness and 12 box numbers at each of 5 levels.
    positions = sum(s * s for s in (*sizes, 2))
    assert macs["heads: rpn"] == positions * (2 * 64 * 64 * 9 + 64 * (3 + 12))
    # Box head: four 3x3 convolutions at 7x7, a linear layer; 81 scores and 4 numbers per class.
    box = (64 + 3 * 256) * 256 * 9 * 7**2 + 256 * 7 * 7 * 1024 + 1024 * (81 + 4 * 80)
    assert macs["heads: box, 1000 regions"] == 1000 * box
    # Mask head: four 3x3 convolutions at 14x14, one transposed 2x2, 80 masks of 28x28.
    mask = (64 + 3 * 256) * 256 * 9 * 14**2 + 256 * 256 * 28**2 + 256 * 80 * 28**2
    assert macs["heads: mask, 100 regions"] == 100 * mask
    assert row["heads_not_counted"] == []
    assert list(row["activation_mib_by_part"]) == ["stem", "res2", "res3", "res4", "res5", "neck"]
    latency = row["latency_ms"]
    assert latency["runs"] == 2 and latency["min"] <= latency["median"] <= latency["max"]
    assert row["latency_device"] and row["changes"] == ["MODEL.FPN.OUT_CHANNELS", "64", *norms]


def test_activation_checkpointing(tool, project, tmp_path, capsys) -> None:
    config = project / "configs" / "_base" / "mask_rcnn_fpn.yaml"
    rows = []
    for stages in ("[]", "['res3']"):
        status = tool(
            "--config-file", config, "--size", 64, 64, "--output", tmp_path / "a.json",
            "MODEL.LAMBDA_RESNET.ACTIVATION_CHECKPOINTING", stages,
        )  # fmt: skip
        assert status == 0
        output = capsys.readouterr().out
        assert ("activation checkpointing of res3: " in output) == (stages != "[]")
        rows += json.loads((tmp_path / "a.json").read_text())["rows"]
    plain, again = (row["activation_mib_by_part"] for row in rows)
    assert again["res3"] < 0.4 * plain["res3"] and again["res5"] == plain["res5"]
    assert [row["activation_checkpointing"] for row in rows] == [[], ["res3"]]


def test_stock_backbone(tool, project, tmp_path, capsys) -> None:
    config = project / "configs" / "_base" / "mask_rcnn_fpn.yaml"
    status = tool(
        "--config-file", config, "--size", 64, 64, "--output", tmp_path / "a.json",
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.NORM", "BN",
        "MODEL.RESNETS.OUT_FEATURES", "['res2','res3','res4','res5']",
    )  # fmt: skip
    assert status == 0 and "classifier" not in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["parameters"]["classifier_form"] is None
    assert row["parameters"]["backbone"] == 23_508_032  # ResNet-50 without its classifier


def test_heads_that_are_not_counted_are_named(tool, project, tmp_path, capsys) -> None:
    config = project / "configs" / "_base" / "mask_rcnn_fpn.yaml"
    status = tool(
        "--config-file", config, "--size", 64, 64, "--output", tmp_path / "a.json",
        "MODEL.KEYPOINT_ON", True, "MODEL.LAMBDA_RESNET.DEPTH", 50, "MODEL.BACKBONE.FREEZE_AT", 1,
    )  # fmt: skip
    assert status == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["heads_not_counted"] == ["roi_heads.keypoint_head"]
    output = capsys.readouterr()
    assert "multiply-adds not counted: roi_heads.keypoint_head" in output.out
    assert "never loaded" not in output.out + output.err
    assert row["parameters"]["classifier_form"] == 18_963_272  # as without FREEZE_AT


def test_a_lambda_layer_in_a_head_is_counted_by_its_formula(tool, project, tmp_path, monkeypatch):
    """Of each position the whole window counts, which no back end computes on 7 x 7 regions."""
    config = project / "configs" / "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    words = ["MODEL.ROI_MASK_HEAD.CONV_DIM", 256, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7]

    def mask_head(name: str) -> tuple[int, int]:
        """Number of regions, and multiply-adds of the mask head on all of them."""
        assert tool("--config-file", config, "--output", tmp_path / name, *words) == 0
        (row,) = json.loads((tmp_path / name).read_text())["rows"]
        label, count = next(i for i in row["multiply_adds_by_part"].items() if "mask" in i[0])
        return int(label.split()[2]), count

    regions, stock = mask_head("stock.json")
    layer, build = LambdaLayer(256, scope=23).to("meta"), detector.build_detector

    def with_the_layer(cfg):
        model = build(cfg)
        model.roi_heads.mask_head.mask_fcn2 = layer
        return model

    monkeypatch.setattr(detector, "build_detector", with_the_layer)
    of_layer = total_flops(count_flops(layer, torch.empty(1, 256, 7, 7, device="meta")))
    of_convolution = 256 * 256 * 9 * 7 * 7
    assert mask_head("own.json")[1] == stock + regions * (of_layer - of_convolution)


def test_retinanet(tool, project, tmp_path) -> None:
    config = project / "configs" / "_base" / "mask_rcnn_fpn.yaml"
    status = tool(
        "--config-file", config, "--size", 64, 64, "--output", tmp_path / "a.json",
        "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", False,
        "MODEL.BACKBONE.NAME", "build_retinanet_lambda_resnet_fpn_backbone",
        "MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.LAMBDA_RESNET.DEPTH", 50,
    )  # fmt: skip
    assert status == 0
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["multiply_adds_by_part"]["heads: dense"] > 0
    assert "heads: rpn" not in row["multiply_adds_by_part"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "no.yaml"], "--config-file no.yaml: no such file"),
        (["--config-file", "{config}", "--size", "0", "8"], "--size 0 8: expected two positive"),
        (
            ["--config-file", "{config}", "MODEL.BACKBONE.NAME", "nothing"],
            "MODEL.BACKBONE.NAME='nothing': expected one of ",
        ),
        (["--config-file", "{config}", "MODEL.DEVICE", "foo"], "MODEL.DEVICE='foo': expected cpu"),
        (
            ["--config-file", "{config}", "MODEL.RPN.IN_FEATURES", "['p9']"],
            "'p9' is not among the features of the backbone",
        ),
        (
            ["--config-file", "{config}", "--output", "{folder}"],
            "cannot be written: it is a folder or names no file",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[-2:]),
)
def test_wrong_input_is_one_line(tool, project, tmp_path, capsys, arguments, message) -> None:
    config = project / "configs" / "_base" / "mask_rcnn_fpn.yaml"
    filled = [word.format(config=config, folder=tmp_path) for word in arguments]
    assert tool(*filled) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]


def test_output_that_cannot_be_written(tool, tmp_path, capsys, project) -> None:
    (tmp_path / "file").write_text("")
    config = project / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    output = tmp_path / "file" / "a.json"
    assert tool("--config-file", config, "--size", 64, 64, "--output", output) == 2
    assert capsys.readouterr().err.startswith(f"error: --output {output} cannot be written")


def test_an_image_of_one_position_is_one_line(tool, project, capsys) -> None:
    config = project / "configs" / "quick" / "mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    assert tool("--config-file", config, "--size", 32, 32) == 2
    error = capsys.readouterr().err
    assert "error: --size 32 32: too small for training: " in error and "Traceback" not in error
