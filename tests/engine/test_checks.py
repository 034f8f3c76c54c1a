"""What the settings of a training are told before the first iteration."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from lambda_det import get_cfg
from lambda_det.checkpoint.image_format import ImageFormat
from lambda_det.configs import load_config, merge_config, read_config
from lambda_det.engine.checks import (
    Recipe,
    check_device,
    check_norms,
    check_pixels,
    check_solver,
    on_device,
)
from lambda_det.engine.parts import RunOptions
from lambda_det.engine.values import check_values
from lambda_det.errors import InputError

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def warnings(log) -> list[str]:
    return [r.getMessage() for r in log.records if r.levelno >= logging.WARNING]


def solver(base_lr: float, batch: int, recipe: Recipe | None = None, **changes) -> None:
    check_solver(
        base_lr, batch, **{"max_iter": 1000, "warmup_iters": 100, **changes}, recipe=recipe
    )


def recipe_of(path: Path, overrides: Sequence[str] = ()) -> Recipe | None:
    return Recipe.of(read_config(str(path)), overrides)


# ---- learning rate ----


def test_recipe_is_the_batch_that_the_rate_was_set_for(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("SOLVER: {IMS_PER_BATCH: 64, BASE_LR: 0.1}\n")
    leaf = tmp_path / "leaf.yaml"
    leaf.write_text("_BASE_: base.yaml\nSOLVER:\n  IMS_PER_BATCH: 2\n")
    assert recipe_of(leaf) == Recipe(0.1, 64)
    assert recipe_of(leaf, ["SOLVER.IMS_PER_BATCH", "8"]) == Recipe(0.1, 64)
    # Whoever sets the rate sets it for the batch of then.
    assert recipe_of(leaf, ["SOLVER.BASE_LR", "0.01"]) == Recipe(0.01, 2)
    both = ["SOLVER.BASE_LR", "0.01", "SOLVER.IMS_PER_BATCH", "4"]
    assert recipe_of(leaf, both) == Recipe(0.01, 4)
    assert Recipe.of([], both) == Recipe(0.01, 4)
    # What is not known stays unknown.
    (tmp_path / "base.yaml").write_text("MODEL: {MASK_ON: True}\n")
    assert recipe_of(leaf) is None
    assert Recipe.of([]) is None


def test_a_batch_changed_without_its_rate(log):
    recipe = Recipe(0.1, 64)
    assert recipe.rate_for(8) == 0.0125
    solver(0.1, 16, recipe)
    (text,) = warnings(log)
    assert "SOLVER.BASE_LR 0.1 was chosen for SOLVER.IMS_PER_BATCH 64, which is now 16" in text
    assert text.endswith("SOLVER.BASE_LR 0.025")
    log.clear()
    solver(0.1, 256, recipe)  # too low is told as well
    assert warnings(log)[0].endswith("SOLVER.BASE_LR 0.4")
    log.clear()
    solver(0.1, 32, recipe)
    solver(0.025, 16, Recipe(0.025, 16))
    assert not warnings(log)


def test_a_rate_far_above_detectron2s(log):
    solver(0.02, 2)
    (text,) = warnings(log)
    assert "8 times detectron2's 0.02 for 16 images" in text
    assert text.endswith("set SOLVER.BASE_LR 0.0025")
    log.clear()
    solver(0.02, 16)
    solver(0.05, 8)  # the quick start's
    solver(0.00025, 2)  # fine-tuning
    assert not warnings(log)


def test_rates_that_learn_nothing(log):
    for rate in ("-0.1", "1e999"):
        with pytest.raises(InputError, match=r"SOLVER\.BASE_LR=.*: expected a finite number"):
            check_values(load_config("", ["SOLVER.BASE_LR", rate]))
    solver(0.0, 16)
    assert "nothing will be learned" in warnings(log)[0]


def test_a_warm_up_that_never_ends(log):
    solver(0.02, 16, warmup_iters=300, max_iter=300)
    (text,) = warnings(log)
    assert "SOLVER.WARMUP_ITERS 300" in text and "SOLVER.MAX_ITER 300" in text
    log.clear()
    solver(0.02, 16, warmup_iters=299, max_iter=300)
    solver(0.02, 16, warmup_iters=0, max_iter=0)
    assert not warnings(log)


# ---- pixels ----


def test_channels_in_the_other_order(log):
    check_pixels(ImageFormat("RGB", RGB_MEAN[::-1], RGB_STD[::-1]))
    mean, std = warnings(log)
    assert "MODEL.PIXEL_MEAN [103.53, 116.28, 123.675]" in mean
    assert "INPUT.FORMAT 'RGB'" in mean and mean.endswith("set it to [123.675, 116.28, 103.53]")
    assert "MODEL.PIXEL_STD" in std
    log.clear()
    check_pixels(ImageFormat("BGR", RGB_MEAN, (1.0, 1.0, 1.0)))
    assert len(warnings(log)) == 1
    log.clear()
    for order in ("RGB", "BGR"):
        check_pixels(ImageFormat("RGB", RGB_MEAN, RGB_STD).in_order(order))
        check_pixels(ImageFormat(order, (120.0, 115.0, 110.0), (60.0, 60.0, 60.0)))
        check_pixels(ImageFormat(order, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    cfg = get_cfg()
    check_pixels(ImageFormat.from_config(cfg))  # detectron2's defaults
    assert not warnings(log)


def test_pixels_of_0_to_1(log):
    check_pixels(ImageFormat("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    (text,) = warnings(log)
    assert "multiply both by 255" in text


@pytest.mark.parametrize("std", ["[58.0, 0.0, 57.0]", "[58.0, -1.0, 57.0]", "[58.0, 1e999, 57.0]"])
def test_deviations_that_divide_by_nothing(std):
    with pytest.raises(InputError, match=r"MODEL\.PIXEL_STD=.*above 0"):
        check_values(load_config("", ["MODEL.PIXEL_STD", std]))


# ---- values ----


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATALOADER.SAMPLER_TRAIN", "Random"),
        ("INPUT.MASK_FORMAT", "rle"),
        ("MODEL.LOAD_PROPOSALS", "True"),
        ("MODEL.META_ARCHITECTURE", "Yolo"),
        ("MODEL.PIXEL_MEAN", "[1.0, 2.0]"),
        ("MODEL.ROI_HEADS.NAME", "Head"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine"),
        ("SOLVER.MAX_ITER", "-5"),
    ],
)
def test_a_value_that_detectron2_would_stop_at(key: str, value: str):
    with pytest.raises(InputError, match=f"^{key}=.*{re.escape(value)}.*: expected "):
        check_values(load_config("", [key, value]))


@pytest.mark.parametrize("device", ["gpu", "mps", "xpu", "cuda:99"])
def test_a_device_that_pytorch_cannot_use(device):
    check_device("cpu")
    line = rf"^MODEL\.DEVICE='{device}': PyTorch (cannot use it|sees no GPU).*cpu"
    with pytest.raises(InputError, match=line) as caught:
        check_device(device)
    assert "\n" not in str(caught.value)


def test_half_precision_that_a_cpu_does_not_have(log):
    half = RunOptions(precision="float16")
    assert on_device("cuda", half) is half and not log.records
    assert on_device("cpu", half).precision == "float32" and "needs a GPU" in log.text


# ---- norms ----


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d])
def test_frozen_norms_that_were_never_loaded(norm, log):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), norm(8), norm(8))
    with pytest.raises(InputError) as error:
        check_norms(model, 2, 1)
    text = str(error.value)
    assert "all 2 FrozenBN layers" in text and "(first: 1)" in text and "\n" not in text
    model[1].running_mean[3] = 0.5
    check_norms(model, 2, 1)
    (text,) = warnings(log)
    assert "1 of 2 FrozenBN layers" in text and "(first: 2)" in text
    log.clear()
    model[2].bias.fill_(0.1)  # Caffe2's weights are the affine map alone
    check_norms(model, 2, 1)
    assert not warnings(log)


def test_batch_statistics_of_one_image(log):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    check_norms(model, 1, 8)  # not synchronised: eight times one image
    (text,) = warnings(log)
    assert "1 BatchNorm layers (first: 1)" in text and "SOLVER.IMS_PER_BATCH to 2" in text
    log.clear()
    check_norms(model, 2, 1)
    check_norms(nn.Sequential(nn.SyncBatchNorm(8)), 1, 2)
    check_norms(model.eval(), 1, 1)
    check_norms(nn.Sequential(nn.GroupNorm(2, 8)), 1, 1)
    assert not warnings(log)
    check_norms(nn.Sequential(nn.SyncBatchNorm(8)), 1, 1)
    assert len(warnings(log)) == 1


def test_frozen_norms_on_their_own_device_kind():
    norm = FrozenBatchNorm2d(4).to(torch.float16)  # rounding is no trained statistic
    with pytest.raises(InputError, match="FrozenBN"):
        check_norms(norm, 2, 1)


# ---- together ----


def check_together(layers) -> None:
    cfg = merge_config(layers, ())
    recipe = Recipe.of(layers)
    assert recipe is not None
    check_solver(
        cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH,
        max_iter=cfg.SOLVER.MAX_ITER, warmup_iters=cfg.SOLVER.WARMUP_ITERS, recipe=recipe,
    )  # fmt: skip
    check_pixels(ImageFormat.from_config(cfg))


def test_shipped_configs_are_silent(project: Path, log):
    folders = ("COCO-Detection", "COCO-InstanceSegmentation", "quick")
    paths = [path for f in folders for path in (project / "configs" / f).glob("*.yaml")]
    assert len(paths) > 10
    for path in paths:
        check_together(read_config(str(path)))
    assert not warnings(log)


def test_norms_of_heads_are_checked_whatever_the_backbone() -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ROI_BOX_HEAD.NORM = "build_resnet_fpn_backbone", "BNX"
    with pytest.raises(InputError, match=r"MODEL.ROI_BOX_HEAD.NORM='BNX': expected"):
        check_values(cfg)
