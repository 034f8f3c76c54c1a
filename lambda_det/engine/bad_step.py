"""A training step whose loss or gradient is not finite: written, and run again to look into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import (
    BitMasks,
    Boxes,
    Instances,
    Keypoints,
    PolygonMasks,
    RotatedBoxes,
)
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from lambda_det.checkpoint.reading import read_file
from lambda_det.configs import load_config
from lambda_det.engine.accumulation import mean_losses, split
from lambda_det.engine.gradients import names_not_finite
from lambda_det.engine.setup import check_device, precision
from lambda_det.errors import InputError
from lambda_det.layers.precision import autocast_to

CONFIG, WEIGHTS, STEP = "config.yaml", "model.pth", "step.pth"

# Rotated boxes are Boxes too, and come first.
_WRAPPED = {
    "rotated_boxes": RotatedBoxes, "boxes": Boxes, "bitmasks": BitMasks, "keypoints": Keypoints,
}  # fmt: skip


def write_bad_step(
    folder: str,
    cfg: CfgNode,
    model: nn.Module,
    images: Sequence[Mapping],
    losses: Mapping[str, float],
    random_states: Mapping[str, Tensor],
) -> None:
    """Write what :func:`replay` needs: config, weights, batch and random states, as plain types.

    Args:
        folder: made if it is not there.
        cfg: of the training.
        model: with the weights that the step began with.
        images: the batch, as the model takes it.
        losses: what came out.
        random_states: device type -> state of its generator before the step.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, CONFIG), "w", encoding="utf-8") as file:
        file.write(cfg.dump())
    torch.save({"model": model.state_dict()}, os.path.join(folder, WEIGHTS))
    step = {
        "images": [_plain(image) for image in images],
        "losses": dict(losses),
        "random": dict(random_states),
    }
    torch.save(step, os.path.join(folder, STEP))


def replay(
    folder: str, *, float32: bool = False, overrides: Sequence[str] = ()
) -> tuple[list[dict[str, object]], dict[str, float], dict[str, float]]:
    """Run a step that :func:`write_bad_step` wrote, forward and, of finite losses, backward.

    Args:
        folder: what it wrote.
        float32: leave out the autocast of the training.
        overrides: ``KEY VALUE`` pairs for the config, such as ``MODEL.DEVICE cpu``.

    Returns:
        The modules whose output is not finite although their input is, in the order they ran (name,
        type, largest input), then the parameters whose gradients are not (name, "gradient", None);
        the losses now; the losses then. Losses are empty where the step did not come to them.

    Raises:
        InputError: a file is missing or broken, or the network is another one.
    """
    cfg = load_config(os.path.join(folder, CONFIG), overrides)
    check_device(cfg)
    step = read_file(os.path.join(folder, STEP)).data
    model = build_model(cfg)
    try:
        model.load_state_dict(read_file(os.path.join(folder, WEIGHTS)).data["model"])
        images = [_unplain(image) for image in step["images"]]
    except (KeyError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"{folder}: holds no training step ({type(error).__name__})") from error
    model.train()
    torch.set_rng_state(step["random"]["cpu"])
    if cfg.MODEL.DEVICE.startswith("cuda") and "cuda" in step["random"]:
        torch.cuda.set_rng_state(step["random"]["cuda"], cfg.MODEL.DEVICE)
    dtype = None if float32 else precision(cfg)
    autocast = autocast_to(dtype, torch.device(cfg.MODEL.DEVICE).type)
    found: list[dict[str, object]] = []
    hooks = [
        module.register_forward_hook(_watch(name, found)) for name, module in model.named_modules()
    ]
    losses: Mapping[str, Tensor] = {}
    # detectron2 raises where proposals are not finite.
    with contextlib.suppress(FloatingPointError), EventStorage():
        parts = []
        for part in split(images, cfg.SOLVER.ACCUMULATE):
            with autocast:
                parts.append(model(part))
            total = sum(parts[-1].values())
            if torch.isfinite(total):
                total.backward()
        losses = mean_losses(parts)
    for hook in hooks:
        hook.remove()
    names = names_not_finite(model) if all(map(torch.isfinite, losses.values())) else []
    found += [{"module": name, "type": "gradient", "max_input": None} for name in names]
    return found, {name: loss.item() for name, loss in losses.items()}, step["losses"]


def _watch(name: str, found: list[dict[str, object]]):
    def look(module: nn.Module, inputs: object, output: object) -> None:
        if _finite(inputs) and not _finite(output):
            largest = max(
                (float(t.abs().max()) for t in _tensors(inputs) if t.numel()), default=0.0
            )
            found.append({"module": name, "type": type(module).__name__, "max_input": largest})

    return look


def _finite(value: object) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach()] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = value.values()
    elif isinstance(value, Instances):
        value = [f.tensor if isinstance(f, Boxes) else f for f in value.get_fields().values()]
    elif hasattr(value, "tensor"):  # detectron2's ImageList and Boxes
        value = [value.tensor]
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


def _plain(value: object) -> object:
    """Tensors, numbers, text, lists and dicts only: readable without running code."""
    if isinstance(value, Instances):
        fields = {name: _plain(field) for name, field in value.get_fields().items()}
        return {"instances": fields, "image_size": list(value.image_size)}
    for kind, wrapper in _WRAPPED.items():
        if isinstance(value, wrapper):
            return {kind: value.tensor}
    if isinstance(value, PolygonMasks):
        return {"polygons": [[torch.as_tensor(p) for p in rings] for rings in value.polygons]}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (Tensor, int, float, str, bool, type(None))) else str(value)


def _unplain(value: object) -> object:
    if isinstance(value, list):
        return [_unplain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"instances", "image_size"}:
        fields = {name: _unplain(field) for name, field in value["instances"].items()}
        return Instances(tuple(value["image_size"]), **fields)
    if len(value) == 1:
        ((kind, content),) = value.items()
        if kind in _WRAPPED:
            return _WRAPPED[kind](content)
        if kind == "polygons":
            return PolygonMasks([[ring.numpy() for ring in rings] for rings in content])
    return {key: _unplain(item) for key, item in value.items()}
