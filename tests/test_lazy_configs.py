"""The LazyConfig of a recipe and the YAML of its λ row are the same training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf
from recipe_facts import RECIPES, buildable, on_meta, per_parameter
from torch import Tensor, nn

from lambda_det.configs import config_path, lazy_config_names, load_config
from lambda_det.data import LambdaDatasetMapper
from lambda_det.engine.lazy import _build_optimizer, lazy_device, options_from_lazy
from lambda_det.engine.lazy_config import LAZY_NAMES, load_lazy_config, select
from lambda_det.engine.values import options_from_cfg

NAMES = lazy_config_names()
QUICK = "quick/mask_rcnn_lambda_R_50_FPN_shapes_cpu"
RETINANET = "COCO-Detection/retinanet_lambda_R_101_FPN_3x"
BOTTOM_UP = "model.backbone.bottom_up"
OTHER_ROWS = {  # as docs/configs.md has them
    "R_152_FPN_3x": (
        "mask_rcnn_lambda_R_101_FPN_3x",
        [f"{BOTTOM_UP}.variant=resnet", f"{BOTTOM_UP}.depth=152",
         "train.init_checkpoint=torchvision://resnet152",
         "train.output_dir=output/mask_rcnn_R_152_FPN_3x"],
    ),
    "lambda_R_101_FPN_lsj_200ep": (
        "mask_rcnn_lambda_R_101_FPN_lsj",
        ["train.max_iter=368750", "lr_multiplier.scheduler.milestones=[327778,355092]",
         "lr_multiplier.scheduler.num_updates=368750", "train.eval_period=40000",
         "train.output_dir=output/mask_rcnn_lambda_R_101_FPN_lsj_200ep"],
    ),
}  # fmt: skip


def facts(thing: Any) -> Any:
    """What an object was made with, in types that can be compared."""
    if isinstance(thing, float):
        return round(thing, 6)
    if thing is None or isinstance(thing, (bool, int, str, torch.dtype, torch.device)):
        return thing
    if OmegaConf.is_config(thing):
        return facts(OmegaConf.to_container(thing))
    if isinstance(thing, Tensor):
        return tuple(thing.shape) if thing.is_meta else (thing.shape, facts(thing.tolist()))
    if isinstance(thing, (list, tuple, set)):
        return [facts(value) for value in thing]
    if isinstance(thing, Mapping):
        return {str(key): facts(value) for key, value in thing.items()}
    if isinstance(thing, nn.Module):
        own = {k: v for k, v in vars(thing).items() if not k.startswith("_") and k != "training"}
        return type(thing).__qualname__, {k: facts(v) for k, v in own.items()}
    is_code = isinstance(thing, type) or hasattr(thing, "__code__")
    if hasattr(thing, "__dict__") and not is_code:
        # A module that it holds is the model itself, or is compared by its own name.
        own = {k: v for k, v in vars(thing).items() if not isinstance(v, nn.Module)}
        return type(thing).__qualname__, facts(own)
    return getattr(thing, "__qualname__", repr(thing))


def modules(model: nn.Module) -> dict[str, Any]:
    return {name: facts(module) for name, module in model.named_modules()}


def parameters(model: nn.Module) -> dict[str, tuple]:
    found = {name: (tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()}
    return found | {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}


def value_of(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return facts(cfg)


def test_every_recipe_has_one_lazy_config() -> None:
    """Longer trainings of a recipe are a matter of overrides."""
    longer = {name for name in RECIPES if name.endswith("00ep")}
    assert set(NAMES) == set(RECIPES) - longer


@pytest.mark.parametrize("name", NAMES)
def test_a_lazy_config_says_what_the_yaml_says(name: str) -> None:
    check_same(name, load_lazy_config(name))


@pytest.mark.parametrize("row", OTHER_ROWS)
def test_other_rows_are_made_by_overrides(row: str) -> None:
    recipe, words = OTHER_ROWS[row]
    check_same(f"COCO-InstanceSegmentation/mask_rcnn_{row}", load_lazy_config(recipe, words))


def check_same(name: str, lazy: DictConfig) -> None:
    """The YAML of that name and the LazyConfig build the same things."""
    cfg = load_config(config_path(name))
    assert replace(options_from_lazy(lazy), key_names={}) == options_from_cfg(cfg)
    assert lazy_device(lazy) == cfg.MODEL.DEVICE
    for key, place in LAZY_NAMES.items():
        value = select(lazy, place)
        if value is not None and key not in ("MODEL.MASK_ON", "SOLVER.AMP.PRECISION"):
            value = (value,) if key in ("DATASETS.TRAIN", "DATASETS.TEST") else value
            assert facts(value) == value_of(cfg, key), key
    for split, is_train in (("train", True), ("test", False)):
        own = instantiate(lazy.dataloader[split].mapper)
        assert facts(own) == facts(LambdaDatasetMapper(cfg, is_train))
    assert (lazy.dataloader.test.num_workers, tuple(lazy.dataloader.evaluator.tasks)) == (
        cfg.DATALOADER.NUM_WORKERS, ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    )  # fmt: skip

    cfg, model = on_meta(config_path(name))
    with torch.device("meta"):
        twin = instantiate(buildable(lazy).model)
    assert modules(twin) == modules(model)
    assert parameters(twin) == parameters(model)
    optimizer, other = build_optimizer(cfg, model), _build_optimizer(lazy, twin)
    assert type(other).__name__ == type(optimizer).__name__
    assert per_parameter(twin, other) == per_parameter(model, optimizer)
    assert "model" not in lazy.optimizer.params
    multiplier = instantiate(lazy.lr_multiplier)
    schedule = build_lr_scheduler(cfg, optimizer)._multiplier
    last = cfg.SOLVER.WARMUP_ITERS + 99
    warmup = [iteration / cfg.SOLVER.MAX_ITER for iteration in range(0, last, 9)]
    places = [*(part / 97 for part in range(97)), *warmup]
    for where in (place for place in places if place < 1):
        assert math.isclose(multiplier(where), schedule(where), rel_tol=1e-9, abs_tol=1e-12)


def batch(masks: bool) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    images = []
    for height, width in ((96, 80), (64, 96)):
        objects = Instances((height, width))
        objects.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 70.0, 60.0]]))
        objects.gt_classes = torch.tensor([1, 3])
        if masks:
            objects.gt_masks = BitMasks(torch.zeros(2, height, width, dtype=torch.bool))
            objects.gt_masks.tensor[:, 20:40, 30:38] = True
        pixels = torch.rand(3, height, width, generator=generator) * 255
        images.append({"image": pixels, "instances": objects, "height": height, "width": width})
    return images


@pytest.mark.parametrize(
    "name, yaml, lazily",
    [
        (QUICK, "MODEL.LAMBDA_RESNET.DEPTH 26", ["model.backbone.bottom_up.depth=26"]),
        (
            RETINANET,
            "MODEL.DEVICE cpu MODEL.LAMBDA_RESNET.DEPTH 26 MODEL.LAMBDA_RESNET.NORM BN",
            ["train.device=cpu", "model.backbone.bottom_up.depth=26",
             "model.backbone.bottom_up.norm=BN"],
        ),
    ],
)  # fmt: skip
def test_both_give_the_same_numbers(name: str, yaml: str, lazily: list[str]) -> None:
    torch.manual_seed(0)
    model = build_model(load_config(config_path(name), yaml.split()))
    twin = instantiate(load_lazy_config(name, lazily).model)
    assert [n for n, _ in twin.state_dict().items()] == [n for n, _ in model.state_dict().items()]
    twin.load_state_dict(model.state_dict())
    for mean in ("pixel_mean", "pixel_std"):  # in no checkpoint
        assert torch.equal(getattr(twin, mean), getattr(model, mean))
    found = []
    for each in (model, twin):
        torch.manual_seed(1)
        with EventStorage(), torch.no_grad():
            losses = each.train()(batch("mask" in name))
        judge = each.roi_heads.box_predictor if "mask" in name else each
        judge.test_score_thresh = 0.0
        with torch.no_grad():
            (result, _) = each.eval()(batch(False))
        boxes = result["instances"]
        found.append([*losses.values(), boxes.pred_boxes.tensor, boxes.scores, boxes.pred_classes])
        if "mask" in name:
            found[-1].append(boxes.pred_masks)
    assert len(found[0][-1]) > 0
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
