"""A detector whose blocks have all layers of layers/attention.py in turns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from every_kind import kinds_in
from tiny_detector import CONFIG

from lambda_det.configs import load_config
from lambda_det.engine import parts_from_cfg, run
from lambda_det.engine.lazy_config import config_of, load_lazy_config
from lambda_det.layers.attention import KINDS

pytestmark = [
    pytest.mark.slow,  # a training
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
KEYS = (
    "MODEL.LAMBDA_RESNET.VARIANT resnet MODEL.LAMBDA_RESNET.MASK_PADDING True "
    "MODEL.LAMBDA_RESNET.LAYER.KIND next_kind "
    "MODEL.LAMBDA_RESNET.LAMBDA_BLOCKS.RES3 ['all'] "
    "MODEL.LAMBDA_RESNET.LAMBDA_BLOCKS.RES4 ['all'] DATASETS.TEST ('coco_folder_val2017',)"
).split()


def test_every_kind_trains_and_is_evaluated(
    project: Path, shapes_folder: Path, tiny_overrides, tmp_path: Path
) -> None:
    folders = ["DATASETS.COCO_FOLDER", str(shapes_folder), "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(str(project / CONFIG), [*tiny_overrides, *KEYS, *folders])
    parts, options = parts_from_cfg(cfg)
    model = parts.model
    assert kinds_in(model) == {*KINDS}
    masked, shapes = [], []

    def note_mask(_layer, _inputs, named) -> None:
        masked.append(named["padding_mask"] is not None)

    bottom_up = model.backbone.bottom_up
    layers = [block.spatial_layer for block in (*bottom_up.res3, *bottom_up.res4)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
        layer.register_forward_pre_hook(note_mask, with_kwargs=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    metrics = run(parts, options)
    assert metrics["bbox"]["AP"] is not None and metrics["segm"]["AP"] is not None
    assert any(masked) and any(height != width for *_, height, width in shapes)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    changed = {
        name.partition(".spatial_layer.")[0]
        for name, parameter in model.named_parameters()
        if ".spatial_layer." in name and not torch.equal(parameter, before[name])
    }
    assert len(changed) == len(layers)


def test_lazy_config() -> None:
    words = ["model.backbone.bottom_up.kind=local_attention"]
    lazy = load_lazy_config("quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu", words)
    network = instantiate(lazy.model.backbone.bottom_up)
    assert kinds_in(network) == {"local_attention"}
    assert config_of(lazy).MODEL.LAMBDA_RESNET.LAYER.KIND == "local_attention"
    for scope, wanted in ((5, 5), ("global", 0)):
        lazy.model.backbone.bottom_up.scope = scope
        layer = config_of(lazy).MODEL.LAMBDA_RESNET.LAYER
        assert layer["SCOPE"] == wanted
