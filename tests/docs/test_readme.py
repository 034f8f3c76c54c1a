"""What README.md shows first."""

from __future__ import annotations

import re
from pathlib import Path

import detectron2.config

from lambda_det import get_cfg, get_config
from lambda_det.config import flat

PROJECT = Path(__file__).resolve().parents[2]


def test_a_stock_trainer_reads_every_key_of_the_config_that_is_named() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    (name,) = re.findall(r'get_config\("(\w+)"\)', text)
    config, defaults, stock = map(flat, (get_config(name), get_cfg(), detectron2.config.get_cfg()))
    ours = [key for key in config.keys() - stock.keys() if config[key] != defaults[key]]
    assert ours and all(key.startswith("MODEL.LAMBDA_RESNET.") for key in ours)
