"""Random detections, and pycocotools called without any of our code."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def quiet_coco(content: dict) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(content)
        coco.createIndex()
    return coco


def truth_as_detections(content: dict) -> list[dict]:
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: a[key] for key in keys} | {"score": 1.0} for a in content["annotations"]]


def random_detections(content: dict, seed: int, crowded: int = 3) -> list[dict]:
    """The ground truth moved, resized, renamed or left out, several times; crowds included.

    ``crowded`` images get 130 detections of one class.
    """
    rng = np.random.default_rng(seed)
    coco = quiet_coco(content)
    category_ids = sorted(coco.cats)
    found = []

    def add(annotation: dict, spread: float, category_id: int) -> None:
        image = coco.imgs[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        dx, dy = rng.normal(0, spread, 2) * (w + 2, h + 2)
        fx, fy = np.exp(rng.normal(0, spread, 2))
        mask = coco.annToMask(annotation)
        shift = (round(float(dy)), round(float(dx)))
        moved = np.roll(mask, shift, axis=(0, 1))
        moved[rng.random(mask.shape) < 0.03] = 0
        code = mask_util.encode(np.asfortranarray(moved))
        found.append(
            {
                "image_id": image["id"],
                "category_id": category_id,
                "bbox": [float(v) for v in (x + dx, y + dy, w * fx, h * fy)],
                "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
                "score": round(float(rng.random()), 2),  # many scores are equal
            }
        )

    for annotation in content["annotations"]:
        for _ in range(rng.integers(0, 4)):
            renamed = rng.random() < 0.15
            category_id = rng.choice(category_ids) if renamed else annotation["category_id"]
            add(annotation, rng.choice([0.02, 0.1, 0.4]), int(category_id))
    for index in rng.choice(len(content["annotations"]), crowded, replace=False):
        for _ in range(130):
            add(content["annotations"][index], 0.2, content["annotations"][index]["category_id"])
    rng.shuffle(found)
    return found


def judge(content: dict, detections: list[dict], task: str, category_ids=None) -> np.ndarray:
    """pycocotools' twelve numbers (0 to 1, or -1), called as its own demonstration does."""
    entries = copy.deepcopy(detections)
    if task == "segm":  # so that loadRes takes the area of the mask and not of the box
        for entry in entries:
            entry.pop("bbox", None)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = quiet_coco(content)
        evaluation = COCOeval(coco, coco.loadRes(entries), task)
        if category_ids is not None:
            evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats
