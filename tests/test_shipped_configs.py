"""The configs that are shipped: each builds its model, and compared rows differ in nothing else."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from lambda_det.backbone import LambdaResNet
from lambda_det.backbone.shapes_only import shapes_only
from lambda_det.engine.setup import load_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SHIPPED = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.relative_to(CONFIGS).parts[0] not in ("_base", "pretrain", "published", "suites")
)
MASK_RCNN = CONFIGS / "COCO-InstanceSegmentation"
RETINANET = CONFIGS / "COCO-Detection" / "retinanet_lambda_R_101_FPN_3x.yaml"
NAMES = {"resnet": "R", "se": "se_R", "lambda": "lambda_R"}
ROWS = [(variant, depth) for variant in NAMES for depth in (101, 152)]


def row(variant: str, depth: int, recipe: str) -> Path:
    return MASK_RCNN / f"mask_rcnn_{NAMES[variant]}_{depth}_FPN_{recipe}.yaml"


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    keys = {}
    for key, value in node.items():
        keys |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
        )
    return keys


@functools.cache
def keys_of(path: Path) -> dict[str, Any]:
    return flat(load_config(str(path)))


def differences(first: Path, second: Path) -> set[str]:
    one, two = keys_of(first), keys_of(second)
    return {key for key in one | two if one.get(key, "absent") != two.get(key, "absent")}


def short(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", SHIPPED, ids=short)
def test_builds_its_model(path: Path) -> None:
    cfg = load_config(str(path))
    cfg.MODEL.DEVICE = "meta"
    with shapes_only():
        model = build_model(cfg)
    backbone = model.backbone.bottom_up
    assert isinstance(backbone, LambdaResNet)
    blocks = [len(getattr(backbone, stage)) for stage in backbone.stage_names]
    assert sum(blocks) == {50: 16, 101: 33, 152: 50}[cfg.MODEL.LAMBDA_RESNET.DEPTH]
    has_lambda = any(name.endswith("lambda_layer.embedding") for name in model.state_dict())
    assert has_lambda == cfg.MODEL.LAMBDA_RESNET.VARIANT.startswith("lambda")
    frozen = {n.split(".")[0] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen <= {"stem"}


@pytest.mark.parametrize("path", SHIPPED, ids=short)
def test_is_short_and_has_a_folder_of_its_own(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 12
    assert "_BASE_" in yaml.safe_load("\n".join(lines))
    folders = [keys_of(other)["OUTPUT_DIR"] for other in SHIPPED]
    assert folders.count(keys_of(path)["OUTPUT_DIR"]) == 1


def test_documents_list_every_config() -> None:
    pages = ((CONFIGS.parent / "docs" / name) for name in ("training.md", "weights.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    listed = re.findall(r"^\| `([\w./-]+\.yaml)` \|", text, re.MULTILINE)
    pretraining = (CONFIGS / "pretrain").glob("*.yaml")  # built by tests/pretrain
    assert sorted(listed) == sorted(map(short, [*SHIPPED, *pretraining]))


@pytest.mark.parametrize("recipe", ["lsj", "3x"])
def test_rows_of_a_table_differ_in_what_they_compare(recipe: str) -> None:
    node = "MODEL.LAMBDA_RESNET"
    paths = {(variant, depth): row(variant, depth, recipe) for variant, depth in ROWS}
    for (variant, depth), path in paths.items():
        cfg = load_config(str(path))
        assert (variant, depth) == (cfg.MODEL.LAMBDA_RESNET.VARIANT, cfg.MODEL.LAMBDA_RESNET.DEPTH)
        assert path.stem == Path(cfg.OUTPUT_DIR).name
        for (other_variant, other_depth), other in paths.items():
            expected = {"OUTPUT_DIR"} if path != other else set()
            expected |= {f"{node}.VARIANT"} if variant != other_variant else set()
            if depth != other_depth:
                expected |= {f"{node}.DEPTH"} | ({"MODEL.WEIGHTS"} if recipe == "3x" else set())
            assert differences(path, other) == expected, (path.stem, other.stem)


def test_lsj_rows_start_from_nothing() -> None:
    paths = [row(*name, "lsj") for name in ROWS]
    for path in (*paths, MASK_RCNN / "mask_rcnn_lambda_full_R_101_FPN_lsj.yaml"):
        cfg = load_config(str(path))
        assert cfg.MODEL.WEIGHTS == "" and cfg.MODEL.BACKBONE.FREEZE_AT == 0
        assert cfg.MODEL.LAMBDA_RESNET.STEM == "rs" and cfg.INPUT.LSJ.ENABLED
    full = MASK_RCNN / "mask_rcnn_lambda_full_R_101_FPN_lsj.yaml"
    expected = {"MODEL.LAMBDA_RESNET.VARIANT", "OUTPUT_DIR"}
    assert differences(full, row("lambda", 101, "lsj")) == expected


def test_3x_rows_start_from_the_same_weights() -> None:
    for variant, depth in ROWS:
        cfg = load_config(str(row(variant, depth, "3x")))
        assert f"torchvision://resnet{depth}" == cfg.MODEL.WEIGHTS
        node = cfg.MODEL.LAMBDA_RESNET
        assert (node.STEM, node.STRIDE_IN_1X1) == ("v1", False)  # torchvision's ResNet
        assert "Frozen" not in node.NORM and cfg.MODEL.BACKBONE.FREEZE_AT <= 1
        assert cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
        solver = cfg.SOLVER
        assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (16, 0.02)
        assert (solver.MAX_ITER, tuple(solver.STEPS)) == (270000, (210000, 250000))
        assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (640, 672, 704, 736, 768, 800)
        assert not cfg.INPUT.LSJ.ENABLED
    separate = MASK_RCNN / "mask_rcnn_se_R_101_FPN_3x_timm.yaml"
    expected = {"MODEL.WEIGHTS", "MODEL.LAMBDA_RESNET.STEM", "OUTPUT_DIR"}
    assert differences(separate, row("se", 101, "3x")) == expected


def test_retinanet_has_detectron2s_defaults() -> None:
    cfg = load_config(str(RETINANET))
    assert cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and not cfg.MODEL.MASK_ON
    assert cfg.MODEL.BACKBONE.NAME == "build_retinanet_lambda_resnet_fpn_backbone"
    sizes = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]
    for ours, theirs in zip(cfg.MODEL.ANCHOR_GENERATOR.SIZES, sizes, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    assert cfg.MODEL.RETINANET.IOU_THRESHOLDS == [0.4, 0.5]
    assert cfg.MODEL.RETINANET.IOU_LABELS == [0, -1, 1]
    assert cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA == 0.0
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.01, 270000)


def image(seed: int) -> torch.Tensor:
    return torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(seed)) * 255


def test_retinanet_trains_and_detects_on_a_cpu() -> None:
    torch.manual_seed(0)
    tiny = (
        "MODEL.DEVICE cpu MODEL.BACKBONE.FREEZE_AT 0 MODEL.LAMBDA_RESNET.DEPTH 50 "
        "MODEL.LAMBDA_RESNET.NORM GN MODEL.FPN.OUT_CHANNELS 16 MODEL.RETINANET.NUM_CONVS 1 "
        "MODEL.RETINANET.NUM_CLASSES 3 MODEL.RETINANET.SCORE_THRESH_TEST 0.0 "
        "TEST.DETECTIONS_PER_IMAGE 5"
    ).split()
    model = build_model(load_config(str(RETINANET), tiny))
    instances = Instances((96, 128))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 12.0, 60.0, 70.0], [40.0, 20.0, 110.0, 90.0]]))
    instances.gt_classes = torch.tensor([0, 2])
    batch = [{"image": image(seed), "instances": instances} for seed in range(2)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    totals = []
    for _ in range(3):
        with EventStorage():
            losses = model.train()(batch)
        assert set(losses) == {"loss_cls", "loss_box_reg"}
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert totals[-1] < totals[0]
    # Blocks start as their shortcut; after a step every part of them learns.
    idle = [name for name, value in model.named_parameters() if not value.grad.any()]
    assert not idle
    with torch.no_grad():
        outputs = model.eval()([{"image": image(3), "height": 48, "width": 64}])
    found = outputs[0]["instances"]
    assert 0 < len(found) <= 5 and found.image_size == (48, 64)
    assert found.scores.isfinite().all() and set(found.pred_classes.tolist()) <= {0, 1, 2}
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 64).all() and (boxes[:, 3] <= 48).all()
