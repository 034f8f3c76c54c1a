"""The objects that detectron2 main's own mapper makes of coco_tiny under large-scale jitter.

Those stored beside this file are of its commit 02b5c4e2 (2026-06-06).

Where detectron2 main is installed (or its sources are on PYTHONPATH), this writes them anew:

    python tests/data/detectron2_objects.py /path/to/coco_tiny
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data import transforms as T

from lambda_det.data import register_coco_folder

STORED = Path(__file__).with_suffix(".json")
SCALE, SIZE = (0.1, 2.0), (256, 320)


def records(coco_tiny: Path) -> list[dict]:
    """The images with objects; detectron2's mapper stops on others when it recomputes boxes."""
    found = DatasetCatalog.get(register_coco_folder(str(coco_tiny), "val2017"))
    return [r for r in found if any(not a["iscrowd"] for a in r["annotations"])]


def objects_of(mapper: Callable[[dict], dict], coco_tiny: Path) -> dict[str, dict[str, list]]:
    """Image id -> ``boxes`` (x1, y1, x2, y2), ``classes`` and ``areas``, in pixels."""
    found = {}
    for record in records(coco_tiny):
        np.random.seed(record["image_id"])
        instances = mapper(record)["instances"]
        found[str(record["image_id"])] = {
            "boxes": [
                [round(side, 3) for side in box] for box in instances.gt_boxes.tensor.tolist()
            ],
            "classes": instances.gt_classes.tolist(),
            "areas": [round(float(area), 2) for area in instances.gt_masks.area()],
        }
    return found


def detectron2s_mapper() -> DatasetMapper:
    """The mapper of the installed detectron2, with the jitter of its ``new_baselines``."""
    return DatasetMapper(
        is_train=True,
        augmentations=[
            T.ResizeScale(*SCALE, *SIZE),
            T.FixedSizeCrop(crop_size=SIZE),
            T.RandomFlip(horizontal=True),
        ],
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="polygon",
        recompute_boxes=True,
    )


if __name__ == "__main__":
    entries = objects_of(detectron2s_mapper(), Path(sys.argv[1])).items()
    lines = ",\n".join(f'"{image_id}": {json.dumps(found)}' for image_id, found in entries)
    STORED.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
