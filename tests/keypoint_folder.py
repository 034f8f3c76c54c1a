"""A COCO-layout folder with keypoints, made of one without."""

from __future__ import annotations

import json
from pathlib import Path

NAMES = ["left", "right", "top"]


def with_keypoints(folder: Path, output: Path, *, unlabelled: bool = False) -> Path:
    """The images of ``folder`` with three keypoints for each object, on the sides of its box.

    Every second object has an invisible third one; with ``unlabelled``, every third has none.
    """
    (output / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (output / split).symlink_to(folder / split)
        file = f"annotations/instances_{split}.json"
        content = json.loads((folder / file).read_text())
        for category in content["categories"]:
            category["keypoints"] = NAMES
        for number, annotation in enumerate(content["annotations"]):
            x, y, w, h = annotation["bbox"]
            points = [x, y + h / 2, 2, x + w, y + h / 2, 2, x + w / 2, y, 1]
            if number % 2:
                points[6:] = [0, 0, 0]
            if not unlabelled or number % 3:
                annotation["keypoints"] = points
                annotation["num_keypoints"] = 3 - number % 2
        (output / file).write_text(json.dumps(content))
    return output
