"""The config node: its keys and defaults, and merging from YAML and from the command line."""

from __future__ import annotations

import copy
from typing import Any

import detectron2.config
import pytest
import yaml
from detectron2.config import CfgNode

import lambda_det
from lambda_det import add_lambda_config, get_cfg

NODE = "MODEL.LAMBDA_RESNET"


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    keys = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            keys |= flat(value, f"{prefix}{key}.")
        else:
            keys[f"{prefix}{key}"] = value
    return keys


def value_of(cfg: CfgNode, key: str) -> Any:
    return flat(cfg)[key]


DESIGN_KEYS = [
    *("VARIANT", "DEPTH", "STEM", "NORM", "OUT_FEATURES", "SE_STAGES", "SE_RATIO"),
    *("STRIDE_IN_1X1", "MASK_PADDING", "ACTIVATION", "LAMBDA_POOL"),
    *("ACTIVATION_CHECKPOINTING", "ZERO_INIT_RESIDUAL", "IDLE_STAGES"),
    *("PARTIAL_INIT", "PARTIAL_INIT_AS_IDENTITY", "MIN_COVERAGE"),
    *(f"LAMBDA_BLOCKS.RES{i}" for i in range(2, 6)),
    *(f"LAYER.{key}" for key in ("QUERY_DEPTH", "NUM_HEADS", "INTRA_DEPTH", "SCOPE", "MAX_SIZE")),
    *(f"LAYER.{key}" for key in ("NORM", "KEY_NORMALIZER", "QUERY_NORMALIZER", "CONTENT")),
    *(f"LAYER.{key}" for key in ("POSITION", "POSITION_BIAS", "SHARED_EMBEDDINGS", "BACKEND")),
]


def test_the_node_has_the_keys_of_the_design() -> None:
    assert sorted(flat(get_cfg().MODEL.LAMBDA_RESNET)) == sorted(DESIGN_KEYS)


def test_defaults_are_those_of_the_builder_and_the_layer() -> None:
    node = flat(get_cfg().MODEL.LAMBDA_RESNET)
    expected = {
        "STEM": "rs",
        "NORM": "BN",
        "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "LAMBDA_BLOCKS.RES2": None,
        "LAMBDA_BLOCKS.RES3": None,
        "LAMBDA_BLOCKS.RES4": None,
        "LAMBDA_BLOCKS.RES5": None,
        "SE_STAGES": None,
        "SE_RATIO": 0.25,
        "STRIDE_IN_1X1": False,
        "MASK_PADDING": False,
        "ACTIVATION_CHECKPOINTING": [],
        "ZERO_INIT_RESIDUAL": True,
        "IDLE_STAGES": [],
        "ACTIVATION": "relu",
        "LAMBDA_POOL": 3,
        "PARTIAL_INIT": False,
        "PARTIAL_INIT_AS_IDENTITY": False,
        "MIN_COVERAGE": 1.0,
        "LAYER.QUERY_DEPTH": 16,
        "LAYER.NUM_HEADS": 4,
        "LAYER.INTRA_DEPTH": 1,
        "LAYER.SCOPE": 23,
        "LAYER.MAX_SIZE": None,
        "LAYER.NORM": None,
        "LAYER.KEY_NORMALIZER": "softmax",
        "LAYER.QUERY_NORMALIZER": None,
        "LAYER.CONTENT": True,
        "LAYER.POSITION": True,
        "LAYER.POSITION_BIAS": False,
        "LAYER.SHARED_EMBEDDINGS": False,
        "LAYER.BACKEND": "auto",
    }
    assert {key: node[key] for key in expected} == expected
    assert node["VARIANT"] in ("lambda", "lambda_full") and node["DEPTH"] in (50, 101, 152)


def test_adding_changes_no_stock_key() -> None:
    stock, ours = detectron2.config.get_cfg(), detectron2.config.get_cfg()
    assert add_lambda_config(ours) is None
    before, after = flat(stock), flat(ours)
    assert {key: after[key] for key in before} == before
    added = set(after) - set(before)
    assert {key.removeprefix(f"{NODE}.") for key in added if key.startswith(NODE)} == set(
        DESIGN_KEYS
    )


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


MERGES: list[tuple[str, Any, str]] = [
    # key, value in YAML, the same on the command line
    ("VARIANT", "lambda_full", "lambda_full"),
    ("DEPTH", 152, "152"),
    ("STEM", "v1", "v1"),
    ("NORM", "SyncBN", "SyncBN"),
    ("NORM", "", ""),
    ("OUT_FEATURES", ["res4", "res5"], "['res4', 'res5']"),
    ("LAMBDA_BLOCKS.RES2", ["all"], "['all']"),
    ("LAMBDA_BLOCKS.RES3", [], "[]"),
    ("LAMBDA_BLOCKS.RES4", [6, 12, 18], "[6, 12, 18]"),
    ("LAMBDA_BLOCKS.RES5", [1], "[1]"),
    ("SE_STAGES", ["res2"], "['res2']"),
    ("SE_STAGES", [], "[]"),
    ("SE_RATIO", 0.0625, "0.0625"),
    ("STRIDE_IN_1X1", True, "True"),
    ("MASK_PADDING", True, "True"),
    ("ACTIVATION_CHECKPOINTING", ["res3"], "['res3']"),
    ("ACTIVATION", "silu", "silu"),
    ("LAMBDA_POOL", 2, "2"),
    ("PARTIAL_INIT", True, "True"),
    ("PARTIAL_INIT_AS_IDENTITY", True, "True"),
    ("MIN_COVERAGE", 0.5, "0.5"),
    ("LAYER.QUERY_DEPTH", 8, "8"),
    ("LAYER.NUM_HEADS", 8, "8"),
    ("LAYER.INTRA_DEPTH", 4, "4"),
    ("LAYER.SCOPE", 0, "0"),
    ("LAYER.SCOPE", 7, "7"),
    ("LAYER.MAX_SIZE", [1024, 768], "[1024, 768]"),
    ("LAYER.NORM", "GN", "GN"),
    ("LAYER.NORM", "", ""),
    ("LAYER.KEY_NORMALIZER", "l2", "l2"),
    ("LAYER.KEY_NORMALIZER", None, "None"),
    ("LAYER.QUERY_NORMALIZER", "softmax", "softmax"),
    ("LAYER.CONTENT", False, "False"),
    ("LAYER.POSITION", False, "False"),
    ("LAYER.POSITION_BIAS", True, "True"),
    ("LAYER.SHARED_EMBEDDINGS", True, "True"),
    ("LAYER.BACKEND", "reference", "reference"),
    ("ZERO_INIT_RESIDUAL", False, "False"),
    ("IDLE_STAGES", ["res4", "res5"], "['res4', 'res5']"),
]


def as_yaml(key: str, value: Any) -> str:
    tree = value
    for part in reversed(f"{NODE}.{key}".split(".")):
        tree = {part: tree}
    return yaml.safe_dump({**tree, "VERSION": 2})


@pytest.mark.parametrize(("key", "value", "word"), MERGES, ids=str)
def test_merging(key: str, value: Any, word: str, tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(key, value))
    from_file, from_words = get_cfg(), get_cfg()
    from_file.merge_from_file(str(path))
    from_words.merge_from_list([f"{NODE}.{key}", word])
    for cfg in (from_file, from_words):
        assert value_of(cfg, f"{NODE}.{key}") == value
        rest = {k: v for k, v in flat(cfg).items() if k != f"{NODE}.{key}"}
        assert rest == {k: v for k, v in flat(get_cfg()).items() if k != f"{NODE}.{key}"}
    # And back to the default, over what another file has set.
    default = value_of(get_cfg(), f"{NODE}.{key}")
    path.write_text(as_yaml(key, default))
    from_file.merge_from_file(str(path))
    from_words.merge_from_list([f"{NODE}.{key}", default if default == "" else str(default)])
    assert from_file == from_words == get_cfg()


def test_every_key_is_merged_above() -> None:
    assert {key for key, _, _ in MERGES} == set(DESIGN_KEYS)


def test_round_trip(tmp_path) -> None:
    cfg = get_cfg()
    for key, _, word in MERGES:
        cfg.merge_from_list([f"{NODE}.{key}", word])
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
