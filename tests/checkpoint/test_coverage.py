"""The coverage report: what is counted, what is named, and what is too little."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from lambda_det import get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.checkpoint import load_weights
from lambda_det.checkpoint.coverage import coverage_report, grouped, measure
from lambda_det.errors import InputError


def save(folder: Path, tensors: dict) -> str:
    torch.save({"model": tensors}, folder / "w.pth")
    return str(folder / "w.pth")


def small() -> torch.nn.Module:
    return build_lambda_resnet(50, "resnet", out_features=("res3",))


def config(**keys):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.LAMBDA_RESNET.DEPTH", 50, "MODEL.LAMBDA_RESNET.VARIANT", "resnet"])
    for key, value in keys.items():
        cfg.MODEL.LAMBDA_RESNET[key] = value
    return cfg


def test_counts_by_part() -> None:
    model = {"stem.a": (2, 3), "res2.0.b": (4,), "res2.1.b": (4,), "roi_heads.c": (5,)}
    file = {"stem.a": (2, 3), "res2.0.b": (4, 1), "linear.weight": (9, 9), "res2.9.x": (1,)}
    coverage = measure(model, file)
    assert coverage.wrong_shape == [("res2.0.b", (4, 1), (4,))]
    assert coverage.missing == ["res2.1.b", "roi_heads.c"]
    assert coverage.unexpected == ["res2.9.x"]
    assert coverage.unused_classifier == ["linear.weight"]
    assert coverage.share() == 6 / 14  # of the backbone
    assert coverage.share(but={"res2.1.b"}) == 6 / 10
    text = coverage_report(coverage)
    rows = [line.split() for line in text.splitlines()]  # loaded, missing, wrong, unused, numbers
    assert ["stem", "1", "0", "0", "0", "6", "6", "100"] in rows
    assert ["res2", "0", "1", "1", "1", "0", "8", "0"] in rows
    assert "res2.0.b: (4, 1) in the file, (4,) in the model" in text and "roi_heads" in text


def test_names_are_grouped_by_block() -> None:
    names = [f"res4.{i}.se.fc1.{leaf}" for i in (5, 11) for leaf in ("weight", "bias")]
    names += ["res4.5.conv3.norm.weight", "stem.conv1.norm.weight", "stem.conv1.norm.bias"]
    assert grouped(names) == [
        "stem.conv1.norm.*", "res4.[5,11].se.*", "res4.[5].conv3.norm.weight"
    ]  # fmt: skip


def test_half_of_a_file_is_an_error_below_the_threshold(tmp_path: Path, caplog) -> None:
    state = small().state_dict()
    half = dict(list(state.items())[: len(state) // 2])
    file = save(tmp_path, half)
    network = small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_weights(network, file, cfg=config())
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"MODEL.WEIGHTS='{file}': the file ")
    missing = [n for n in state if n not in half and not n.endswith("num_batches_tracked")]
    assert f"{len(missing)} tensors are missing (first: {missing[0]})" in message
    assert "MODEL.LAMBDA_RESNET.MIN_COVERAGE requires 100 %" in message
    for name, tensor in network.state_dict().items():  # refused as a whole
        assert torch.equal(tensor, before[name])

    share = sum(t.numel() for n, t in half.items() if "tracked" not in n) / sum(
        t.numel() for n, t in state.items() if "tracked" not in n
    )
    with pytest.raises(InputError, match="requires"):
        load_weights(network, file, cfg=config(MIN_COVERAGE=share + 0.001))
    coverage = load_weights(network, file, cfg=config(MIN_COVERAGE=share - 0.001))
    assert coverage.share() == pytest.approx(share) and coverage.missing == missing
    assert torch.equal(network.state_dict()["stem.conv1.weight"], state["stem.conv1.weight"])


def test_one_missing_tensor_is_not_rounded_to_all(tmp_path: Path) -> None:
    state = small().state_dict()
    del state["res2.0.conv1.norm.bias"]
    with pytest.raises(InputError, match=r"contains 99\.9 % .* res2\.0\.conv1\.norm\.bias"):
        load_weights(small(), save(tmp_path, state), cfg=config())


def test_another_architecture_fits_nothing(tmp_path: Path) -> None:
    state = {"blocks.0.attn.qkv.weight": torch.ones(3), "blocks.0.attn.qkv.bias": torch.ones(3)}
    with pytest.raises(InputError, match=r"no tensor in the file fits .*blocks\.0\.attn"):
        load_weights(small(), save(tmp_path, state), cfg=config())


@pytest.mark.parametrize("value", [-0.1, 1.5, 90.0])
def test_threshold_out_of_range(value: float) -> None:
    with pytest.raises(InputError, match=f"MODEL.LAMBDA_RESNET.MIN_COVERAGE={value}"):
        load_weights(small(), "none.pth", cfg=config(MIN_COVERAGE=value))


def test_broken_numbers_are_not_loaded(tmp_path: Path) -> None:
    state = small().state_dict()
    state["res2.0.conv1.weight"][0, 0] = float("nan")
    with pytest.raises(InputError, match=r"NaN or Inf \(first: res2\.0\.conv1\.weight\)"):
        load_weights(small(), save(tmp_path, state), cfg=config())


def test_report_of_a_detector_is_logged(project: Path, tmp_path: Path, caplog) -> None:
    """A bare backbone's weights in a Mask R-CNN: all of the backbone, none of the heads."""
    cfg = config()
    cfg.merge_from_file(str(project / "configs/_base/mask_rcnn_fpn_cpu.yaml"))
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    detector = build_model(cfg)
    backbone = build_lambda_resnet(50, "resnet", num_classes=10)
    with caplog.at_level(logging.INFO):
        coverage = load_weights(detector, save(tmp_path, backbone.state_dict()), cfg=cfg)
    assert coverage.share() == 1 and not coverage.random_in_backbone()
    expected, found = backbone.res5.state_dict(), detector.backbone.bottom_up.res5.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not detector.backbone.bottom_up.frozen_without_weights()
    assert "all of fpn, all of proposal_generator, all of roi_heads" in caplog.text
    assert {*coverage.parts} >= {"stem", "res2", "res5", "fpn", "roi_heads"}

    # and back: a whole detector's file, in a detector and in the bare backbone
    file = save(tmp_path, detector.state_dict())
    assert not load_weights(build_model(cfg), file, cfg=cfg, complete=True).random()
    bare = build_lambda_resnet(50, "resnet")
    coverage = load_weights(bare, file)
    assert coverage.share() == 1
    assert torch.equal(bare.res5[2].conv3.weight, backbone.res5[2].conv3.weight)
