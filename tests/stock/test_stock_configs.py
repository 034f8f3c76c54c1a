"""detectron2's own YAML files under our reader, its one tag of code included."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg as get_stock_cfg
from stock_helpers import FPN, stock_configs

from lambda_det.engine.config_numbers import read_yaml
from lambda_det.engine.recipe import Recipe
from lambda_det.engine.setup import load_config
from lambda_det.errors import InputError

SIZES_LINE = (
    'MODEL: {ANCHOR_GENERATOR: {SIZES: !!python/object/apply:eval ["[[1.5*x for x in (1,2)]]"]}}'
)


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
    assert Recipe.from_files(str(base)) == Recipe(0.01, 16)


def test_every_config_of_detectron2_is_read() -> None:
    """What needs keys of another project, or code, is refused in one line."""
    files = sorted(stock_configs().rglob("*.yaml"))
    assert len(files) > 60
    refused = {}
    for path in files:
        try:
            load_config(str(path))
        except InputError as error:
            refused[path.name] = str(error)
    assert not refused


def test_bases_in_a_list_and_from_a_folder(tmp_path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.yaml").write_text(f"_BASE_: ../b.yaml\n{SIZES_LINE}")
    (tmp_path / "b.yaml").write_text("SOLVER: {MAX_ITER: 7, BASE_LR: 0.5}")
    (tmp_path / "c.yaml").write_text("SOLVER: {MAX_ITER: 8}")
    (tmp_path / "leaf.yaml").write_text("_BASE_: [more/a.yaml, c.yaml]\nSEED: 3")
    cfg = load_config(str(tmp_path / "leaf.yaml"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (8, 0.5, 3)
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[1.5, 3.0]]


@pytest.mark.parametrize(
    "tagged",
    [
        '!!python/object/apply:eval ["__import__(\'os\').mkdir(\'ran\')"]',
        "!!python/object/apply:eval [1, 2]", "!!python/object/apply:eval {args: ['1']}",
        "!!python/object/apply:eval [[1]]", "!!python/object/apply:evil ['1']",
        "!!python/object/new:eval ['1']", "!!python/name:builtins.eval ''", "!!python/tuple [1]",
        "!!python/object/apply:os.mkdir ['ran']",
    ],
)  # fmt: skip
def test_a_file_with_code_is_refused_by_name(tmp_path, monkeypatch, tagged: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(f"OUTPUT_DIR: {tagged}", encoding="utf-8")
    with pytest.raises(InputError, match=r"refused, it has .*; plain YAML is needed") as caught:
        load_config(str(path))
    assert "c.yaml" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_plain_files_are_read_as_by_pyyaml() -> None:
    for path in (stock_configs() / "Base-RCNN-FPN.yaml", stock_configs() / "Base-RCNN-C4.yaml"):
        text = path.read_text(encoding="utf-8")
        assert read_yaml(text) == yaml.safe_load(text)
    assert math.isinf(read_yaml("[.inf]")[0])
