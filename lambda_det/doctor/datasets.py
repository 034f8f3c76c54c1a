"""COCO and folders like it: where they are looked for and which splits are there, unread."""

from __future__ import annotations

import importlib
import os

from .findings import Check, Finding, ok, problem, tool, warning

STOCK_VARIABLE = "DETECTRON2_DATASETS"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FIX = (
    "DATASETS.COCO_FOLDER /path/to/coco behind a command, export LAMBDA_DET_COCO_FOLDER=/path/to/"
    f"coco, or pictures to try with: {tool('make_shapes_dataset')} --output output/shapes"
)


def datasets() -> Finding:
    folders = importlib.import_module("lambda_det.data.coco_folder")
    variable = folders.ENVIRONMENT_VARIABLE
    named = os.environ.get(variable, "")
    stock = os.path.join(os.environ.get(STOCK_VARIABLE, "datasets"), "coco")
    lines = []
    for title, folder in ((f"{variable}={named}", named), (f"detectron2's {stock}", stock)):
        splits = _splits(folders, os.path.expanduser(folder)) if folder else []
        if splits:
            lines.append(f"{title}: {', '.join(splits)}")
        elif named and folder == named:
            what = "no split in COCO layout there" if os.path.isdir(named) else "no such folder"
            return problem(
                f"{title}: {what}",
                "needed: annotations/instances_SPLIT.json with SPLIT/*.jpg; or unset the variable",
            )
    if os.environ.get(STOCK_VARIABLE) and not os.path.isdir(stock):
        lines.append(f"{STOCK_VARIABLE} holds no coco/")
    if not any(": " in line for line in lines):
        return warning("; ".join(["none found", *lines]), FIX)
    return ok("; ".join(lines))


def _splits(folders, root: str) -> list[str]:
    found = []
    for split in folders.folder_splits(root):
        try:
            _, images = folders.locate_split(root, split)
        except ValueError:  # InputError: the json has no images beside it
            found.append(f"{split} (without images)")
            continue
        with os.scandir(images) as entries:
            count = sum(entry.name.lower().endswith(SUFFIXES) for entry in entries)
        found.append(f"{split} ({count} images)")
    return found


CHECKS = (Check("datasets", datasets, needs=("lambda_det",)),)
