"""Odd entries of a json: one or more for each kind of finding."""

from __future__ import annotations

import copy

import pycocotools.mask as mask_util

SQUARE = [4, 6, 14, 6, 14, 14, 4, 14]
LINE = [1.1, 2.2, 1.1, 2.2, 2.2, 4.4, 3.3, 6.6]


def rle(height: int = 30, width: int = 40) -> dict:
    code = mask_util.frPyObjects([SQUARE], height, width)[0]
    return {"size": code["size"], "counts": code["counts"].decode()}


# kind -> (how an entry gets it, what the entry is afterwards; None = it is left out).
FIRST = "annotations", 0
CASES = {
    "number": [
        ((*FIRST, "image_id"), "1", ("image_id", 1)),
        ((*FIRST, "image_id"), 1.0, ("image_id", 1)),
        ((*FIRST, "category_id"), "7", ("category_id", 7)),
        (("images", 0, "id"), 1.0, ("image_id", 1)),
        (("images", 0, "height"), "30", ("image_id", 1)),
        (("categories", 0, "id"), "7", ("category_id", 7)),
    ],
    "image_size": [
        (("images", 0, "height"), -1, ("image_id", 1)),
        (("images", 0, "width"), None, ("image_id", 1)),
        (("images", 0, "width"), "remove", ("image_id", 1)),
    ],
    "annotation_id": [
        (("annotations", 1, "id"), 1, ("id", 1)),
        ((*FIRST, "id"), None, ("id", 3)),
        ((*FIRST, "id"), "remove", ("id", 3)),
    ],
    "box_side": [((*FIRST, "bbox"), [4, 6, 10, -7.1e-15], ("bbox", [4, 6, 10, 8]))],
    "box_from_mask": [
        ((*FIRST, "bbox"), "remove", ("bbox", [4, 6, 10, 8])),
        ((*FIRST, "bbox"), None, ("bbox", [4, 6, 10, 8])),
        ((*FIRST, "bbox"), [0, 0, 0, 0], ("bbox", [4, 6, 10, 8])),
    ],
    "area": [
        ((*FIRST, "area"), "remove", ("area", 80)),
        ((*FIRST, "area"), -80, ("area", 80)),
        ((*FIRST, "area"), [0], ("area", 80)),
    ],
    "iscrowd": [
        ((*FIRST, "iscrowd"), "remove", ("iscrowd", 0)),
        ((*FIRST, "iscrowd"), None, ("iscrowd", 0)),
        ((*FIRST, "iscrowd"), False, ("iscrowd", 0)),
        ((*FIRST, "iscrowd"), "0", ("iscrowd", 0)),
    ],
    "polygon_form": [
        ((*FIRST, "segmentation"), SQUARE, ("segmentation", [SQUARE])),
        (
            (*FIRST, "segmentation"),
            [[4, 6], [14, 6], [14, 14], [4, 14]],
            ("segmentation", [SQUARE]),
        ),
        (
            (*FIRST, "segmentation"),
            [[[4, 6], [14, 6], [14, 14], [4, 14]]],
            ("segmentation", [SQUARE]),
        ),
    ],
    "odd_polygon": [((*FIRST, "segmentation"), [[*SQUARE, 4]], ("segmentation", [SQUARE]))],
    "short_polygon": [
        ((*FIRST, "segmentation"), [SQUARE, [1, 2, 3, 4]], ("segmentation", [SQUARE])),
        ((*FIRST, "segmentation"), [SQUARE, LINE], ("segmentation", [SQUARE])),
    ],
    "no_mask": [
        ((*FIRST, "segmentation"), [], ("segmentation", [])),
        ((*FIRST, "segmentation"), [[]], ("segmentation", [])),
        ((*FIRST, "segmentation"), None, ("segmentation", None)),
    ],
    "outside": [
        ((*FIRST, "bbox"), [40, 6, 10, 8], None),
        ((*FIRST, "bbox"), [4, -9, 10, 9], None),
    ],
    "point_mask": [
        ((*FIRST, "segmentation"), [[1, 2, 3, 4]], None),
        ((*FIRST, "segmentation"), [[1, 2]], None),
        ((*FIRST, "segmentation"), [LINE], None),
        ((*FIRST, "segmentation"), [[5, 5] * 4], None),
        ((*FIRST, "segmentation"), {"size": [30, 40], "counts": [1200]}, None),
    ],
    "no_extent": [
        (FIRST, {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 0, 0],
                 "segmentation": [], "area": 0, "iscrowd": 0}, None),
        (FIRST, {"id": 1, "image_id": 1, "category_id": 7, "bbox": [3, 4, 5, 0],
                 "area": 0, "iscrowd": 0}, None),
    ],
    "no_image": [((*FIRST, "image_id"), 4711, None), ((*FIRST, "image_id"), "b", None)],
    "no_class": [((*FIRST, "category_id"), 99, None), ((*FIRST, "category_id"), "fish", None)],
}  # fmt: skip
ROWS = [(kind, *case) for kind, cases in CASES.items() for case in cases]


def spoiled(content: dict, path: tuple, value: object) -> dict:
    content = copy.deepcopy(content)
    *parents, last = path
    place = content
    for step in parents:
        place = place[step]
    if value == "remove":
        del place[last]
    else:
        place[last] = value
    return content
