"""Which pixels decide the kind of an object, by the gradient of a detector's class logits.

The detectors are the runs of :file:`row_mates.yaml` in the output folder of ``compare``::

    python -m studies.evidence.looks output/row_mates [--record]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch import Tensor, nn

from lambda_det.checkpoint import load_weights
from lambda_det.comparison.statistics import spread
from lambda_det.configs import load_config
from lambda_det.data import configure_datasets
from lambda_det.errors import InputError, exit_on_input_error, writing
from lambda_det.io import write_json
from lambda_det.records import make_record
from studies.evidence.row_mates import scenes
from studies.evidence.scenes import Scene
from studies.tables import rows_table

RECORD = Path(__file__).resolve().parents[2] / "results" / "row_mates_looks.json"
IMAGES = 50
_REACH = 10  # radius in pixels that counts as a marker: its largest radius plus one
_FAR = 60  # distance in pixels from the middle of an object from which on a pixel is far


def decisive_pixels(model: nn.Module, image: np.ndarray, boxes: np.ndarray) -> Tensor:
    """Compute the mean over colours of |d (logit of kind 0 − logit of kind 1) / d pixel|.

    Args:
        model: a detector of two classes in evaluation mode.
        image: (H, W, 3) uint8 BGR.
        boxes: (n, 4) x0, y0, x1, y1 in pixels; they are used as proposals.

    Returns:
        (n, H, W), one map for each box.
    """
    pixels = torch.as_tensor(image.transpose(2, 0, 1).astype("float32"))
    batch = model.preprocess_image([{"image": pixels}]).tensor.detach().requires_grad_(True)
    features = model.backbone(batch)
    heads = model.roi_heads
    pooled = heads.box_pooler(
        [features[name] for name in heads.box_in_features],
        [Boxes(torch.as_tensor(boxes, dtype=torch.float32))],
    )
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    fields = [
        torch.autograd.grad(logit[0] - logit[1], batch, retain_graph=True)[0][0].abs().mean(0)
        for logit in logits
    ]
    return torch.stack(fields)[:, : image.shape[0], : image.shape[1]]


COLUMNS = ("own_marker_percent", "other_marker_percent", "far_percent")
"""Percentages of an object's gradient: on its own marker, on another marker (the mean of them), and
on all pixels that are more than 60 pixels away."""


def shares(fields: Tensor, scene: Scene) -> list[tuple[float, float, float]]:
    """Compute :data:`COLUMNS` for each object of a scene from its maps."""
    height, width = scene.image.shape[:2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    discs = [(x - mx) ** 2 + (y - my) ** 2 <= _REACH**2 for mx, my in scene.markers.tolist()]
    found = []
    for row, (field, (x0, y0, x1, y1)) in enumerate(zip(fields, scene.boxes.tolist(), strict=True)):
        on = torch.stack([field[disc].sum() for disc in discs])
        away = (x - (x0 + x1) / 2) ** 2 + (y - (y0 + y1) / 2) ** 2 > _FAR**2
        others = (on.sum() - on[row]) / (len(on) - 1)
        parts = torch.stack([on[row], others, field[away].sum()])
        found.append(tuple((100 * parts / field.sum()).tolist()))
    return found


def runs_in(output: str) -> Iterator[tuple[str, int, str]]:
    """Find the finished runs on the set "relational": (model, seed, folder) of each."""
    root = os.path.join(output, "runs", "relational")
    for model in sorted(os.listdir(root)) if os.path.isdir(root) else ():
        for name in sorted(os.listdir(os.path.join(root, model))):
            folder = os.path.join(root, model, name)
            number = name.removeprefix("seed")
            if number.isdecimal() and os.path.isfile(os.path.join(folder, "finished.json")):
                yield model, int(number), folder


def look(folder: str, images: int = IMAGES) -> list[float]:
    """Compute the means of :func:`shares` over the first validation scenes for one run."""
    cfg = load_config(os.path.join(folder, "config.yaml"))
    configure_datasets(cfg, for_training=False)
    model = build_model(cfg).eval()
    load_weights(model, os.path.join(folder, "model_final.pth"), complete=True, cfg=cfg)
    found = []
    for scene in scenes("val2017", "rows", count=images):
        found += shares(decisive_pixels(model, scene.image, scene.boxes), scene)
    return np.mean(found, axis=0).tolist()


@exit_on_input_error
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", help="output folder of compare with the suite row_mates")
    parser.add_argument("--record", action="store_true", help=f"write results/{RECORD.name}")
    args = parser.parse_args(argv)
    found: dict[str, dict[int, list[float]]] = {}
    for model, seed, folder in runs_in(args.output):
        found.setdefault(model, {})[seed] = look(folder)
    if not found:
        raise InputError(f"{args.output}: has no finished run in runs/relational")
    rows = [
        {"model": model, "seeds": len(of)}
        | {
            name: spread(values)
            for name, values in zip(COLUMNS, zip(*of.values(), strict=True), strict=True)
        }
        for model, of in found.items()
    ]
    seeds = sorted({seed for of in found.values() for seed in of})
    output = os.path.relpath(args.output)
    output = f"output/{os.path.basename(output)}" if output.startswith("..") else output
    command = f"python -m studies.evidence.looks {output} --record"
    record = make_record(command, rows, seeds, with_gpu=False)
    print(rows_table(record))
    if args.record and len({*map(len, found.values())}) > 1:
        raise InputError(f"--record: the models in {args.output} have different numbers of seeds")
    if args.record:
        with writing(str(RECORD)):
            write_json(record, str(RECORD))
    return 0


if __name__ == "__main__":
    sys.exit(main())
