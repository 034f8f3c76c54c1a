"""What the recipes resolve to on the detectron2 that runs: its own keys, and what the optimiser
does with each parameter. ``recipes.json`` has them as detectron2 v0.5 gives them:

    PYTHONPATH=$PWD python tests/recipe_facts.py > tests/recipes.json
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_stock_cfg
from detectron2.layers import get_norm
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from torch import nn

from lambda_det.config import flat
from lambda_det.configs import config_path, load_config

RECORD = Path(__file__).parent / "recipes.json"
HEADS = "COCO-InstanceSegmentation/mask_rcnn_"
RECIPES = (
    f"{HEADS}lambda_R_101_FPN_lsj", f"{HEADS}lambda_R_101_FPN_lsj_200ep",
    f"{HEADS}lambda_R_101_FPN_lsj_400ep", f"{HEADS}lambda_R_101_FPN_lsj_paper",
    f"{HEADS}lambda_R_101_FPN_3x", "COCO-Detection/retinanet_lambda_R_101_FPN_3x",
    "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu", "quick/mask_rcnn_lambda_R_50_FPN_overfit_cpu",
)  # fmt: skip
"""The λ row of every recipe that trains a detector."""

SYNCHRONISED = "naiveSyncBN_N"


def knows_norm(name: str = SYNCHRONISED) -> bool:
    """detectron2 v0.5 as it was published lacks this name."""
    try:
        return get_norm(name, 32) is not None
    except KeyError:
        return False


def buildable(config: Any) -> Any:
    """A config of either kind, changed: GN in heads whose norm this detectron2 does not know."""
    if knows_norm():
        return config
    if isinstance(config, CfgNode):
        for node in (config.MODEL.ROI_BOX_HEAD, config.MODEL.ROI_MASK_HEAD):
            node.NORM = "GN" if node.NORM == SYNCHRONISED else node.NORM
    elif "roi_heads" in config.model:
        for node in (config.model.roi_heads.box_head, config.model.roi_heads.mask_head):
            if node.get("conv_norm") == SYNCHRONISED:
                node.conv_norm = "GN"
    return config


def on_meta(path: str) -> tuple[CfgNode, nn.Module]:
    """A shipped config and its network, of shapes alone."""
    cfg = buildable(load_config(path))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return cfg, build_model(cfg)


def per_parameter(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    """Name of a parameter -> what the optimiser does with it."""
    names = {id(p): name for name, p in model.named_parameters()}
    # "foreach" is how it is computed: detectron2's main version asks for it.
    return {
        names[id(p)]: {
            key: value for key, value in group.items() if key not in ("params", "foreach")
        }
        for group in optimizer.param_groups
        for p in group["params"]
    }


def optimizer_groups(path: str) -> dict[str, dict]:
    """Settings -> the parameters that have them: how many of which kind, and a digest of names."""
    cfg, model = on_meta(path)
    optimizer = build_optimizer(cfg, model)
    groups: dict[str, list[str]] = {}
    for name, settings in per_parameter(model, optimizer).items():
        said = [f"{key} {value:g}" for key, value in sorted(settings.items()) if value]
        groups.setdefault(f"{type(optimizer).__name__}: {', '.join(said)}", []).append(name)
    return {
        said: dict(sorted(Counter(name.rpartition(".")[2] for name in names).items()))
        | {"sha256": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]}
        for said, names in sorted(groups.items())
    }


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def facts() -> dict[str, dict]:
    """``keys``: detectron2's own keys that the recipes share; ``recipes``: name -> the others, and
    its optimiser. Keys of ours do not depend on detectron2."""
    stock = flat(get_stock_cfg())
    found = {name: flat(load_config(config_path(name))) for name in RECIPES}
    own = {
        name: {k: as_json(v) for k, v in keys.items() if k in stock} for name, keys in found.items()
    }
    first = own[RECIPES[0]]
    shared = {k: v for k, v in first.items() if all(keys[k] == v for keys in own.values())}
    return {
        "keys": shared,
        "recipes": {
            name: {
                "keys": {key: value for key, value in keys.items() if key not in shared},
                "optimizer": optimizer_groups(config_path(name)),
            }
            for name, keys in own.items()
        },
    }


def by_node(keys: dict[str, Any]) -> dict[str, dict]:
    """``{"MODEL.RPN": {"LOSS_WEIGHT": …}}``, of which a file is shorter."""
    nodes: dict[str, dict] = {}
    for key, value in keys.items():
        node, _, last = key.rpartition(".")
        nodes.setdefault(node, {})[last] = value
    return nodes


def recorded() -> dict[str, dict]:
    """:func:`facts` as they were written down."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for part in (record, *record["recipes"].values()):
        part["keys"] = {
            f"{node}.{last}" if node else last: value
            for node, keys in part["keys"].items()
            for last, value in keys.items()
        }
    return record


def in_lines(value: Any, depth: int) -> str:
    """JSON with a line for each entry of the outer ``depth`` levels."""
    if not depth:
        return json.dumps(value, sort_keys=True)
    entries = [f"{json.dumps(key)}: {in_lines(value[key], depth - 1)}" for key in sorted(value)]
    return "{\n" + ",\n".join(entries) + "\n}"


if __name__ == "__main__":
    found = facts()
    keys = in_lines(by_node(found["keys"]), 1)
    recipes = {name: one | {"keys": by_node(one["keys"])} for name, one in found["recipes"].items()}
    print(f'{{"keys": {keys},\n"recipes": {in_lines(recipes, 3)}}}')
