"""The config node: its keys and defaults, and merging from YAML and from the command line."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import detectron2.config
import yaml

import lambda_det
from lambda_det import add_lambda_config, get_cfg
from lambda_det.backbone import build_lambda_resnet
from lambda_det.backbone.build import CONFIG_KEYS, lambda_resnet_arguments
from lambda_det.config import flat
from lambda_det.layers import LambdaLayer

NODE = "MODEL.LAMBDA_RESNET"


# What lambda_det.checkpoint reads; the other keys of the node are arguments of the backbone.
OF_WEIGHTS = {
    f"{NODE}.{key}"
    for key in ("PARTIAL_INIT", "PARTIAL_INIT_AS_IDENTITY", "MIN_COVERAGE", "MEASURE_NORMS")
}


def test_every_key_of_the_node_is_read() -> None:
    keys = {key for key in flat(get_cfg()) if key.startswith(f"{NODE}.")}
    blocks = {key for key in keys if key.startswith(f"{NODE}.LAMBDA_BLOCKS.")}
    assert blocks == {f"{NODE}.LAMBDA_BLOCKS.RES{i}" for i in range(2, 6)}
    arguments = {*CONFIG_KEYS.values()} - {f"{NODE}.LAMBDA_BLOCKS", "MODEL.BACKBONE.FREEZE_AT"}
    assert keys == arguments | blocks | OF_WEIGHTS | {f"{NODE}.LAYER.OWN_DEFAULTS"}


def test_defaults_are_those_of_the_builder_and_the_layer() -> None:
    functions = (LambdaLayer, build_lambda_resnet)
    parameters = {n: p for f in functions for n, p in inspect.signature(f).parameters.items()}
    arguments = lambda_resnet_arguments(get_cfg())
    assert set(arguments.pop("lambda_blocks").values()) == {None}
    del arguments["freeze_at"]  # detectron2's own key
    assert (arguments.pop("variant"), arguments.pop("depth")) == ("lambda", 101)
    for name, value in arguments.items():
        default = parameters[name].default
        assert value == (list(default) if isinstance(default, tuple) else default), name


def test_adding_changes_no_stock_key() -> None:
    stock, ours = detectron2.config.get_cfg(), detectron2.config.get_cfg()
    assert add_lambda_config(ours) is None
    before, after = flat(stock), flat(ours)
    assert {key: after[key] for key in before} == before


def test_adding_twice_keeps_what_was_set() -> None:
    cfg = get_cfg()
    cfg.MODEL.LAMBDA_RESNET.DEPTH = 152
    cfg.MODEL.LAMBDA_RESNET.LAYER.SCOPE = 7
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    before = copy.deepcopy(cfg)
    add_lambda_config(cfg)
    assert cfg == before


def test_get_cfg_is_detectron2s_with_our_keys() -> None:
    cfg = detectron2.config.get_cfg()
    add_lambda_config(cfg)
    assert get_cfg() == cfg
    assert lambda_det.get_cfg is get_cfg
    first = get_cfg()
    first.MODEL.LAMBDA_RESNET.OUT_FEATURES.append("stem")
    first.MODEL.LAMBDA_RESNET.LAMBDA_BLOCKS.RES4 = [1]
    assert get_cfg() == cfg  # every call gives a config of its own


# Values of another type than the default's, and those that YAML or yacs could take for another.
MERGES: list[tuple[str, Any, str]] = [
    # key, value, the same on the command line
    ("NORM", "", ""),
    ("OUT_FEATURES", ["res4", "res5"], "['res4', 'res5']"),
    ("LAMBDA_BLOCKS.RES2", ["all"], "['all']"),
    ("LAMBDA_BLOCKS.RES3", [], "[]"),
    ("LAMBDA_BLOCKS.RES4", [6, 12, 18], "[6, 12, 18]"),
    ("SE_STAGES", ["res2"], "['res2']"),
    ("SE_STAGES", [], "[]"),
    ("SE_RATIO", 0.0625, "0.0625"),
    ("LAYER.SCOPE", 0, "0"),
    ("LAYER.MAX_SIZE", [1024, 768], "[1024, 768]"),
    ("LAYER.NORM", "GN", "GN"),
    ("LAYER.NORM", "", ""),
    ("LAYER.KEY_NORMALIZER", None, "None"),
    ("LAYER.QUERY_NORMALIZER", "softmax", "softmax"),
    ("ZERO_INIT_RESIDUAL", False, "False"),
    ("IDLE_STAGES", ["res4", "res5"], "['res4', 'res5']"),
]


def test_round_trip(tmp_path) -> None:
    cfg = get_cfg()
    for key, value, word in MERGES:
        cfg.merge_from_list([f"{NODE}.{key}", word])
        assert flat(cfg)[f"{NODE}.{key}"] == value
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    for config in (get_cfg(), cfg):
        path = tmp_path / "dump.yaml"
        path.write_text(config.dump())
        loaded = get_cfg()
        loaded.merge_from_file(str(path))
        # detectron2's own nested tuples come back as lists, so its part is compared as YAML.
        assert yaml.safe_load(loaded.dump()) == yaml.safe_load(config.dump())
        assert loaded.MODEL.LAMBDA_RESNET == config.MODEL.LAMBDA_RESNET
        assert loaded.INPUT == config.INPUT and loaded.DATASETS == config.DATASETS
