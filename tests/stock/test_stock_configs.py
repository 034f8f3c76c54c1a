"""detectron2's own YAML files under our reader, its one tag of code included."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import get_cfg as get_stock_cfg
from stock_helpers import FPN, stock_configs

from lambda_det import get_cfg
from lambda_det.configs import load_config, read_config
from lambda_det.engine.checks import Recipe


def leaf(folder: Path, base: Path | str, text: str = "") -> str:
    path = folder / "leaf.yaml"
    path.write_text(f"_BASE_: {base}\n{text}", encoding="utf-8")
    return str(path)


def test_base_rcnn_fpn_with_our_backbone(tmp_path) -> None:
    text = f"MODEL:\n  BACKBONE: {{NAME: {FPN[1]}}}\n  LAMBDA_RESNET: {{DEPTH: 50}}\n"
    cfg = load_config(leaf(tmp_path, stock_configs() / "Base-RCNN-FPN.yaml", text))
    assert (FPN[1], 50) == (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.LAMBDA_RESNET.DEPTH)
    assert tuple(cfg.MODEL.RPN.IN_FEATURES) == ("p2", "p3", "p4", "p5", "p6")


def test_base_retinanet_is_what_detectron2_reads(tmp_path) -> None:
    base = stock_configs() / "Base-RetinaNet.yaml"
    expected = get_stock_cfg()
    expected.merge_from_file(str(base), allow_unsafe=True)
    for path in (str(base), leaf(tmp_path, base, "SOLVER: {MAX_ITER: 5}")):
        cfg = load_config(path)
        assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == expected.MODEL.ANCHOR_GENERATOR.SIZES
        assert cfg.SOLVER.BASE_LR == 0.01 and cfg.INPUT.MIN_SIZE_TRAIN[-1] == 800
    assert cfg.SOLVER.MAX_ITER == 5
    assert Recipe.of(read_config(str(base))) == Recipe(0.01, 16)


def test_every_config_of_detectron2_is_read() -> None:
    files = sorted(stock_configs().rglob("*.yaml"))
    assert len(files) > 60
    for path in files:
        expected = get_cfg()
        expected.merge_from_file(str(path), allow_unsafe=True)
        assert load_config(str(path)) == expected, path
