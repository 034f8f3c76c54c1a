"""The targets of the fuzzing; each must accept its input or raise InputError."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog
from PIL import Image

from lambda_det import get_cfg
from lambda_det.data import LambdaDatasetMapper, register_coco_folder
from lambda_det.data.reading.rle import compress, first_broken
from lambda_det.errors import InputError
from lambda_det.evaluation import evaluate_files, metrics_table
from lambda_det.evaluation.metrics import per_class_table
from studies.fuzz.mutations import as_text

HEIGHT, WIDTH = 30, 40


@dataclass(frozen=True)
class Target:
    """A reader of untrusted input.

    Attributes:
        base: a correct input.
        run: reads a changed input; it also takes a random generator and a folder for files.
    """

    base: object
    run: Callable[[object, random.Random, Path], None]


def _coco() -> dict:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:20, 8:30] = 1
    mask[9:12, 12:16] = 0
    code = mask_util.encode(mask)
    shapes = [
        [[4, 6, 14, 6, 14, 14, 4, 14]],
        {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode("ascii")},
        {"size": [HEIGHT, WIDTH], "counts": [300, 200, 100, 600]},
    ]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)
        ],
        "annotations": [
            {"id": i, "image_id": 1 + i % 2, "category_id": 3 + 4 * (i % 2), "iscrowd": int(i == 5),
             "bbox": [8, 5, 22, 15], "area": 318, "segmentation": shapes[i % 3]}
            for i in range(1, 6)
        ],
        "categories": [{"id": 3, "name": "three"}, {"id": 7, "name": "seven"}],
    }  # fmt: skip


def _evaluation() -> dict:
    truth = _coco()
    keys = ("image_id", "category_id", "bbox", "segmentation")
    found = [{k: copy.deepcopy(a[k]) for k in keys} | {"score": 0.7} for a in truth["annotations"]]
    return {"truth": truth, "found": found}


def _evaluate(value: object, rng: random.Random, folder: Path) -> None:
    """Evaluate two files as the command ``evaluate`` does."""
    value = value if isinstance(value, dict) else {"truth": value, "found": value}
    for name in ("truth", "found"):
        (folder / f"{name}.json").write_bytes(as_text(value.get(name), rng))
    results = evaluate_files(
        str(folder / "truth.json"), str(folder / "found.json"), backend="pycocotools"
    )
    metrics_table(results), per_class_table(results)


def _read(value: object, rng: random.Random, folder: Path) -> None:
    """Register a folder in COCO layout and map its images as the data loader of a training does."""
    images = folder / "fuzz"
    if not images.is_dir():
        images.mkdir()
        (folder / "annotations").mkdir()
        for number in (1, 2):
            Image.new("RGB", (WIDTH, HEIGHT), (90, 9 * number, 9)).save(images / f"{number}.png")
    (folder / "annotations" / "instances_fuzz.json").write_bytes(as_text(value, rng))
    name = register_coco_folder(str(folder), "fuzz")
    mask_format = rng.choice(("bitmask", "polygon"))
    mapper = _mapper(mask_format, lsj=rng.random() < 0.5)
    for record in DatasetCatalog.get(name):
        if any("segmentation" not in annotation for annotation in record["annotations"]):
            continue  # configure_datasets refuses such a set for a training with masks
        instances = mapper(record)["instances"]
        assert instances.gt_boxes.tensor.isfinite().all()
        assert not len(instances) or (instances.gt_boxes.tensor[:, 2:].max() <= 64 + 1e-4)


def _mapper(mask_format: str, *, lsj: bool) -> LambdaDatasetMapper:
    cfg = get_cfg()
    cfg.INPUT.LSJ.ENABLED, cfg.INPUT.LSJ.SIZE = lsj, (64, 48)
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, mask_format
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (32,), 64
    return LambdaDatasetMapper(cfg, True)


def _masks() -> list[dict]:
    rng = np.random.default_rng(0)
    found = []
    for height, width in ((1, 1), (7, 5), (30, 40)):
        mask = np.asfortranarray((rng.random((height, width)) < 0.4).astype(np.uint8))
        code = mask_util.encode(mask)
        counts = code["counts"].decode("ascii")
        found.append({"height": height, "width": width, "segmentation": dict(code, counts=counts)})
    found.append(found[-1] | {"segmentation": {"size": [30, 40], "counts": [300, 200, 700]}})
    found.append(found[-1] | {"segmentation": [[1, 1, 30, 2, 25, 28, 2.5, 20]]})
    return found


def _decode(value: object, rng: random.Random, folder: Path) -> None:
    """Compress masks; compare what is accepted with a simple decoder of the RLE."""
    for entry in value if isinstance(value, list) else []:
        entry = entry if isinstance(entry, dict) else {}
        height, width = (entry.get(side) for side in ("height", "width"))
        if not all(type(side) is int and 0 < side < 200 for side in (height, width)):
            continue  # the checks of the json refuse these earlier
        try:
            code = compress(entry.get("segmentation"), height, width)
            if first_broken([code]) is not None:
                raise ValueError("is not a complete RLE of its image")
        except ValueError as error:
            raise InputError(str(error)) from error
        mask = mask_util.decode(code)
        assert mask.shape == (height, width) and mask.max(initial=0) <= 1
        runs = plain_runs(code["counts"])
        assert min(runs) >= 0 and sum(runs) == height * width
        assert int(mask.sum()) == sum(runs[1::2])


def plain_runs(counts: bytes) -> list[int]:
    """Decode the run lengths of a compressed RLE, one character after the other."""
    runs, value, shift = [], 0, 0
    for character in counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs


TARGETS = {
    "evaluate": Target(_evaluation(), _evaluate),
    "read": Target(_coco(), _read),
    "rle": Target(json.loads(json.dumps(_masks())), _decode),
}
