"""docs/detectron2.md and docs/faq.md say what is so."""

from __future__ import annotations

import re

import yaml
from stock_helpers import stock_configs

from lambda_det.backbone import LambdaResNet
from lambda_det.configs import load_config
from lambda_det.doctor import CHECKS


def blocks(project, kind: str) -> list[str]:
    text = (project / "docs" / "detectron2.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_two_lines_of_a_project(project, monkeypatch) -> None:
    monkeypatch.chdir(project)
    (code,) = blocks(project, "python")
    names: dict = {}
    exec(code, names)
    assert isinstance(names["model"].backbone.bottom_up, LambdaResNet)


def test_the_leaf_on_detectron2s_base(project, tmp_path) -> None:
    (text,) = blocks(project, "yaml")
    content = yaml.safe_load(text)
    base = stock_configs() / content["_BASE_"]
    (tmp_path / "leaf.yaml").write_text(text.replace(content["_BASE_"], str(base)))
    cfg = load_config(str(tmp_path / "leaf.yaml"))
    for key, value in content["MODEL"]["LAMBDA_RESNET"].items():
        assert cfg.MODEL.LAMBDA_RESNET[key] == value
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0


def test_the_doctors_example_has_every_row(project) -> None:
    (example,) = (text for text in blocks(project, "text") if "checks in" in text)
    rows = re.findall(r"^(?:ok|warning|problem) +(.+?)  ", example, re.MULTILINE)
    assert rows == [check[0] for check in CHECKS]
