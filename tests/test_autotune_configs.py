"""The configs for a CPU measure no back ends: one seed gives the same numbers, however busy the
machine is. Those for a GPU do measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from lambda_det.configs import lazy_config_names, load_config
from lambda_det.engine.lazy import lazy_device
from lambda_det.engine.lazy_config import load_lazy_config, select
from lambda_det.pretrain import get_pretrain_cfg

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FRAGMENTS = ("_base", "common", "published", "suites")
YAML = [p for p in CONFIGS.rglob("*.yaml") if p.relative_to(CONFIGS).parts[0] not in FRAGMENTS]


def test_yaml_configs() -> None:
    devices = []
    for path in YAML:
        defaults = get_pretrain_cfg() if path.parent.name == "pretrain" else None
        model = load_config(str(path), defaults=defaults).MODEL
        assert (model.DEVICE != "cpu") == model.LAMBDA_RESNET.LAYER.AUTOTUNE, path
        devices.append((path.parent.name, model.DEVICE))
    assert {("quick", "cpu"), ("pretrain", "cpu"), ("pretrain", "cuda")} <= {*devices}


@pytest.mark.parametrize("name", lazy_config_names())
def test_lazy_configs(name: str) -> None:
    lazy = load_lazy_config(name)
    autotune = select(lazy, "model.backbone.bottom_up.autotune")
    assert (autotune is False) == (lazy_device(lazy) == "cpu")
