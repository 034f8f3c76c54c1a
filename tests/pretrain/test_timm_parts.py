"""Learning rates, weight decay, mixing, and the configs that are shipped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="timm is not installed (pip install timm)")

import torch
from pretrain_helpers import CONFIG
from torch import nn

from lambda_det.backbone import build_classifier
from lambda_det.configs import load_config
from lambda_det.errors import InputError
from lambda_det.pretrain import get_pretrain_cfg
from lambda_det.pretrain.image_folder import TrainingImages
from lambda_det.pretrain.keys import check_pretrain_config
from lambda_det.pretrain.timm_parts import build_mixing, build_optimizer, build_scheduler

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "pretrain").glob("*.yaml"))


# Millions of parameters; the paper's tables of layers and of hybrids, ResNet-RS family.
PUBLISHED = {
    "lambda_R_50_90ep": 15.0, "se_R_50_90ep": 28.1,
    "hybrid_R_50_CCCC_90ep": 25.6, "hybrid_R_50_LCCC_90ep": 25.5, "hybrid_R_50_LLCC_90ep": 25.0,
    "hybrid_R_50_LLLC_90ep": 21.7, "hybrid_R_50_CLLL_90ep": 15.1, "hybrid_R_50_CCCL_90ep": 18.8,
    # Printed as 15.4: a misprint by the other rows, LLLL + CCCC - LLCC.
    "hybrid_R_50_CCLL_90ep": 15.6,
    "lambda_R_101_350ep": 36.9, "lambda_R_152_350ep": 51.4,
}  # fmt: skip


def config(*keys: object, path: Path | str = CONFIG, project: Path | None = None):
    path = path if project is None else project / path
    return load_config(str(path), [str(key) for key in keys], defaults=get_pretrain_cfg())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config(path):
    cfg = config(path=path)
    check_pretrain_config(cfg)
    assert sum(bool(line.strip()) for line in path.read_text().splitlines()) <= 12
    with torch.device("meta"):
        model = build_classifier(cfg, 1000, dropout=cfg.PRETRAIN.DROPOUT)
    build_optimizer(cfg, model)
    # The transform is what reads AUTO_AUGMENT.
    TrainingImages(cfg, [("none.png", 0)], 1, torch.device("cpu"))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if path.stem in PUBLISHED:
        assert round(millions, 1) == PUBLISHED[path.stem]
    if path.stem.endswith("0ep"):
        rate = cfg.PRETRAIN.LR_PER_256 * cfg.PRETRAIN.BATCH_SIZE / 256
        assert rate == pytest.approx(1.6)


def test_every_published_network_has_a_config():
    assert PUBLISHED.keys() <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_depth_decides_what_drops_out(path):
    cfg = config(path=path)
    if path.stem.endswith("350ep"):  # ResNet-RS
        depth = cfg.MODEL.LAMBDA_RESNET.DEPTH
        expected = (0.4 if depth == 420 else 0.25, 0.1 if depth >= 200 else 0.0)
        assert expected == (cfg.PRETRAIN.DROPOUT, cfg.PRETRAIN.DROP_PATH_RATE)
    assert cfg.OUTPUT_DIR.endswith(path.stem) or "cpu" in path.stem


def test_learning_rate_of_every_iteration(project):
    """Linear from 0 to 0.1 x batch / 256 in the warm-up, then half a cosine down to 0."""
    keys = "PRETRAIN.EPOCHS 10 PRETRAIN.WARMUP_EPOCHS 2.0 PRETRAIN.LR_PER_256 0.1".split()
    cfg = config(*keys, "PRETRAIN.BATCH_SIZE", 512, project=project)
    optimizer = build_optimizer(cfg, nn.Conv2d(1, 1, 1))
    scheduler = build_scheduler(cfg, optimizer, iterations_per_epoch=7)
    for iteration in range(70):
        if iteration < 14:
            expected = 0.2 * iteration / 14
        else:
            expected = 0.2 * (1 + math.cos(math.pi * iteration / 70)) / 2
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(expected, abs=1e-12), iteration
        optimizer.step()
        scheduler.step()
    assert scheduler.state_dict() == {"last_epoch": 70}


def test_weight_decay_spares_norms_and_biases(project):
    keys = "PRETRAIN.OPTIMIZER momentum PRETRAIN.WEIGHT_DECAY 0.01 PRETRAIN.MOMENTUM 0.8".split()
    cfg = config(*keys, project=project)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = build_optimizer(cfg, model)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decay.pop(id(model[0].weight)) == 0.01
    assert set(decay.values()) == {0.0} and len(decay) == 3
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(g["momentum"] == 0.8 and not g["nesterov"] for g in optimizer.param_groups)


def test_loss_with_label_smoothing(project):
    cfg = config("PRETRAIN.LABEL_SMOOTHING", 0.3, project=project)
    mixing = build_mixing(cfg, 4, torch.device("cpu"))
    logits, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    images = torch.randn(5, 3, 8, 8)
    same, unchanged = mixing(images, targets)
    assert same is images and unchanged is targets
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=0.3)
    assert mixing.loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)


def test_mixup_mixes_images_and_targets_alike(project):
    cfg = config("PRETRAIN.MIXUP", 0.8, "PRETRAIN.LABEL_SMOOTHING", 0.0, project=project)
    mixing = build_mixing(cfg, 2, torch.device("cpu"))
    images = torch.stack([torch.zeros(3, 6, 6), torch.ones(3, 6, 6)])  # class 0 dark, 1 light
    mixed, targets = mixing(images, torch.tensor([0, 1]))
    assert torch.allclose(mixed.mean(dim=(1, 2, 3)), targets[:, 1], atol=1e-6)
    assert 0 < targets[0, 1] < 1 and torch.allclose(targets.sum(dim=1), torch.ones(2))
    logits = torch.randn(2, 2)
    expected = nn.functional.cross_entropy(logits, targets)
    assert mixing.loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_random_erasing_erases(project):
    cfg = config("PRETRAIN.RANDOM_ERASING", 1.0, project=project)
    images = torch.zeros(4, 3, 16, 16)
    erased, _ = build_mixing(cfg, 2, torch.device("cpu"))(images, torch.zeros(4, dtype=torch.long))
    assert all(0 < (image != 0).float().mean() < 1 for image in erased)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("PRETRAIN.EPOCHS 0", ["PRETRAIN.EPOCHS=0", "above 0"]),
        ("PRETRAIN.DROPOUT 1.0", ["PRETRAIN.DROPOUT=1.0", "below 1"]),
        ("PRETRAIN.FLIP 2.0", ["PRETRAIN.FLIP=2.0", "0 to 1"]),
        ("PRETRAIN.CROP_SCALE [0.5,0.2]", ["PRETRAIN.CROP_SCALE", "0.2"]),
        ("PRETRAIN.TEST_CROP 0.0", ["PRETRAIN.TEST_CROP=0.0"]),
        ("PRETRAIN.SCHEDULER step", ["PRETRAIN.SCHEDULER='step'", "cosine"]),
        ("PRETRAIN.INTERPOLATION cubic", ["PRETRAIN.INTERPOLATION='cubic'", "bicubic"]),
        ("PRETRAIN.BATCH_SIZE 7", ["PRETRAIN.BATCH_SIZE=7", "2 processes"]),
        ("PRETRAIN.BATCH_SIZE 6 PRETRAIN.MIXUP 0.2", ["PRETRAIN.BATCH_SIZE=6", "even", "not 3"]),
        ("SEED -1", ["SEED=-1", "0 or more"]),
        ("MODEL.BACKBONE.FREEZE_AT 2", ["MODEL.BACKBONE.FREEZE_AT=2", "0"]),
        ("INPUT.FORMAT BGR", ["INPUT.FORMAT='BGR'", "'RGB'"]),
        ("MODEL.LAMBDA_RESNET.NORM SyncBN", ["NORM='SyncBN'", "'BN'"]),
    ],
)
def test_wrong_value(keys, words, project):
    with pytest.raises(InputError) as caught:
        check_pretrain_config(config(*keys.split(), project=project), num_processes=2)
    for word in words:
        assert word in str(caught.value)


def test_names_that_timm_does_not_know(project):
    with pytest.raises(InputError, match=r"PRETRAIN.OPTIMIZER='sgdd'.*'momentum'"):
        build_optimizer(config("PRETRAIN.OPTIMIZER", "sgdd", project=project), nn.Linear(1, 1))
    cfg = config("PRETRAIN.AUTO_AUGMENT", "rnd-m9", project=project)
    with pytest.raises(InputError, match=r"PRETRAIN.AUTO_AUGMENT='rnd-m9'.*rand-m9-n2"):
        TrainingImages(cfg, [], 1, torch.device("cpu"))


def test_the_backbone_is_the_detectors(project):
    """One definition: the same keys, the same names of the same shapes."""
    from detectron2.layers import ShapeSpec

    from lambda_det.backbone import build_lambda_resnet_backbone

    keys = ["MODEL.LAMBDA_RESNET.VARIANT", "lambda_full", "MODEL.LAMBDA_RESNET.LAYER.SCOPE", 7]
    cfg = config(*keys, project=project)
    with torch.device("meta"):
        classifier = build_classifier(cfg, 10)
        backbone = build_lambda_resnet_backbone(cfg, ShapeSpec(channels=3))
    shapes = {name: tensor.shape for name, tensor in classifier.state_dict().items()}
    assert shapes.pop("linear.weight") == (10, 2048) and shapes.pop("linear.bias") == (10,)
    assert shapes == {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    with pytest.raises(InputError, match=r"MODEL.LAMBDA_RESNET.DEPTH=99"):
        build_classifier(config("MODEL.LAMBDA_RESNET.DEPTH", 99, project=project), 10)
