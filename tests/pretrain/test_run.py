"""A run's files: weights that detection takes as they are, numbers, several processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from pretrain_helpers import CONFIG, start_tool

from lambda_det import get_cfg
from lambda_det.checkpoint import load_weights
from lambda_det.configs import load_config
from lambda_det.pretrain import get_pretrain_cfg
from lambda_det.pretrain.classifier import Classifier, evaluate
from lambda_det.pretrain.image_folder import build_val_loader, read_image_folder
from lambda_det.pretrain.timm_parts import build_mixing

pytestmark = pytest.mark.slow  # builds or trains whole networks


def detector(project: Path) -> torch.nn.Module:
    cfg = get_cfg()
    config = "configs/quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu.yaml"
    cfg.merge_from_file(str(project / config))
    cfg.MODEL.LAMBDA_RESNET.DEPTH = 26
    return build_model(cfg)


@pytest.mark.parametrize("name", ["model_final.pth", "model_final_ema.pth"])
@pytest.mark.parametrize("loader", ["ours", "stock detectron2"])
def test_the_weights_fill_the_whole_backbone_of_a_detector(project, finished, loader, name):
    model = detector(project)
    path = str(finished / name)
    if loader == "ours":
        load_weights(model, path)
    else:
        DetectionCheckpointer(model).load(path)
    saved = torch.load(path, weights_only=True)["model"]
    backbone = model.backbone.bottom_up.state_dict()
    assert saved.keys() - backbone.keys() == {"linear.weight", "linear.bias"}
    for key, tensor in backbone.items():
        if not key.endswith("num_batches_tracked"):  # a counter that our loader leaves alone
            assert torch.equal(tensor, saved[key]), key


def test_the_files_say_what_they_are(finished):
    raw, averaged = (
        torch.load(finished / name, weights_only=True)
        for name in ("model_final.pth", "model_final_ema.pth")
    )
    weight = "stem.conv1.weight"
    assert not torch.equal(raw["model"][weight], averaged["model"][weight])
    for content in (raw, averaged):
        metadata = content["metadata"]
        assert metadata["classes"] == ["ape", "bee", "cat"]
        assert (metadata["depth"], metadata["variant"], metadata["stem"]) == (26, "lambda", "rs")
        assert metadata["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53])
        assert content["matching_heuristics"] is True
        assert content["lambda_det"]["hidden"]["stride_in_1x1"] is False
        assert content["lambda_det"]["images"]["channel_order"] == "RGB"


def test_numbers_of_the_run(finished):
    lines = [json.loads(line) for line in (finished / "metrics.json").read_text().splitlines()]
    (training,) = (line for line in lines if "total_loss" in line)
    assert training["total_loss"] > 0 and training["iteration"] == 7
    (evaluation,) = (line for line in lines if "val_top1" in line)
    assert 0 <= evaluation["val_top1"] <= evaluation["val_top5"] == 100
    assert evaluation["ema_decay"] == 0.99
    best = torch.load(finished / "model_best.pth", weights_only=True)
    assert (best["metric"], best["value"]) == ("val_top1", evaluation["val_top1"])


def evaluate_alone(project: Path, folder: Path, data: Path) -> dict[str, float]:
    """The written weights, judged by another network of one process."""
    from lambda_det.backbone import build_classifier

    cfg = load_config(str(project / CONFIG), defaults=get_pretrain_cfg())
    cfg.merge_from_list(["PRETRAIN.IMAGE_SIZE", 32, "DATALOADER.NUM_WORKERS", 0])
    cfg.MODEL.LAMBDA_RESNET.DEPTH = 26
    model = Classifier(build_classifier(cfg, 3), build_mixing(cfg, 3, torch.device("cpu")))
    model.load_state_dict(torch.load(folder / "model_final_ema.pth", weights_only=True)["model"])
    val = read_image_folder(str(data)).val
    loader = build_val_loader(cfg, val, torch.device("cpu"), 0, 1)
    return evaluate(loader, model)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, more",
    [
        (("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"), ()),
        ((), ("--num-gpus", "2")),
    ],
)
def test_two_processes(project, image_folder, work, launcher, more):
    """They share every batch, judge every validation image once and write one set of weights."""
    # Both batches of a process are pairs, which mixup needs.
    keys = ("PRETRAIN.BATCH_SIZE", 4, "PRETRAIN.EPOCHS", 1, "PRETRAIN.EVAL_PERIOD", 1)
    process = start_tool(project, image_folder, work / "run", *keys, launcher=launcher, flags=more)
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    (printed,) = re.findall(r"^val_loss [\d.]+, val_top1 ([\d.]+)", output, re.M)
    lines = (work / "run" / "metrics.json").read_text().splitlines()
    logged = json.loads(lines[-1])
    assert float(printed) == pytest.approx(logged["val_top1"], abs=0.01)
    alone = evaluate_alone(project, work / "run", image_folder)
    for name, value in alone.items():
        assert logged[name] == pytest.approx(value, rel=1e-5), name


def test_bfloat16_and_plain_weights(run_tiny, work):
    """Without an average, and in autocast: the weights are written in float32."""
    keys = ("PRETRAIN.BF16", True, "PRETRAIN.EMA_DECAY", 0.0, "PRETRAIN.EPOCHS", 1)
    results = run_tiny(work, *keys, "PRETRAIN.MIXUP", 0.0, "PRETRAIN.CUTMIX", 0.0)
    assert set(results) == {"val_loss", "val_top1", "val_top5"}
    content = torch.load(work / "model_final.pth", weights_only=True)
    assert "WeightAverage" not in content["trainer"]["hooks"]
    assert not (work / "model_final_ema.pth").exists()
    for name, tensor in content["model"].items():
        assert not tensor.is_floating_point() or tensor.dtype == torch.float32
        assert tensor.isfinite().all(), name


def test_branches_are_reported(run_tiny, work):
    run_tiny(work / "run", "MODEL.LAMBDA_RESNET.ZERO_INIT_RESIDUAL", True)
    log = (work / "run" / "log.txt").read_text()
    assert "8 of 8 residual branches start at 0" in log
    assert "the run has 8 iterations" in log
    assert "mean |last norm| of the residual branches: res2 " in log
