"""Generation of a dataset in COCO layout, for the quick start and the tests.

It contains what real annotations contain and what often breaks code: objects of all three COCO size
ranges, partly occluded objects, polygons, masks with holes as RLE, crowd regions, images without
objects, category ids with gaps, and images of different sizes. The same parameters give the same
bytes.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from lambda_det.data.generated.shapes_scene import CLASS_NAMES, SceneObject, draw_scene
from lambda_det.errors import InputError, writing
from lambda_det.io import new_folder, read_json, write_json

TRAIN_SPLIT, VAL_SPLIT = "train2017", "val2017"
CATEGORY_IDS = (2, 5, 9, 12)

_MANIFEST = "shapes.json"
_FORMAT = 2
_LARGEST = (178, 186)  # height and width of an image in pixels; the smallest have 0.7 times that
_LEAST_SCALE = 0.74
# Every 8th image has a crowd region, every 16th has no object at all.
_CROWD_PERIOD, _CROWD_AT = 8, 2
_EMPTY_PERIOD, _EMPTY_AT = 16, 7


def generate_shapes(
    root: str | os.PathLike[str], *, num_train: int = 400, num_val: int = 100, seed: int = 0
) -> str:
    """Write the dataset into the folder ``root`` and return its absolute path.

    The layout is COCO's (``annotations/instances_{train2017,val2017}.json`` and the two image
    folders), plus a manifest ``shapes.json``. The dataset is written to a temporary folder beside
    ``root``, which is renamed at the end. A dataset that this function has written there before,
    with the same parameters, is kept as it is.

    Args:
        root: the folder. It must not exist, or be empty, or hold such a dataset.
        num_train, num_val: number of images of each split.
        seed: random seed; each split has an independent stream of it.

    Raises:
        InputError: a parameter is out of range; ``root`` holds something else or a dataset with
            other parameters; or ``root`` cannot be written.
    """
    root = os.path.abspath(os.path.expanduser(os.fspath(root)))
    bounds = {"num_train": (num_train, 1), "num_val": (num_val, 1), "seed": (seed, 0)}
    for name, (value, least) in bounds.items():
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} {value!r}: an integer of at least {least} is needed")
    manifest = {
        "format": _FORMAT,
        "num_train": num_train,
        "num_val": num_val,
        "seed": seed,
        "image_size": list(_LARGEST),
    }
    if _is_generated(root, manifest):
        return root
    streams = np.random.SeedSequence(seed).spawn(2)
    with writing(f"dataset folder {root}"), new_folder(root) as folder:
        _write_split(folder, TRAIN_SPLIT, num_train, streams[0])
        _write_split(folder, VAL_SPLIT, num_val, streams[1])
        write_json(manifest, os.path.join(folder, _MANIFEST), indent=None)
    return root


def shapes_statistics(root: str | os.PathLike[str], split: str) -> dict[str, Any]:
    """Count the images and objects of one split of a generated dataset by its json.

    Returns:
        Numbers of images, objects and crowd regions by their names. Shares are of all objects but
        crowd regions. The size ranges are COCO's, by the visible area in pixels: small is below
        32^2, large is above 96^2.

    Raises:
        InputError: the json cannot be read or was not made by :func:`generate_shapes`.
    """
    path = os.path.join(root, "annotations", f"instances_{split}.json")
    content = read_json(path)
    try:
        crowds = [a for a in content["annotations"] if a["iscrowd"]]
        objects = [a for a in content["annotations"] if not a["iscrowd"]]
        areas = np.array([a["area"] for a in objects])
        occluded = np.array([a["area"] < a["full_area"] for a in objects])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not the json of a generated shapes dataset") from error
    per_class = Counter(a["category_id"] for a in objects)
    rles = sum(isinstance(a["segmentation"], dict) for a in objects)
    small, large = areas < 32**2, areas > 96**2
    shares = {"small": small, "medium": ~small & ~large, "large": large, "occluded": occluded}
    return {
        "images": len(content["images"]),
        "images_without_objects": len(content["images"]) - len({a["image_id"] for a in objects}),
        "objects": len(objects),
        **{f"{n}_share": float(are.sum() / max(1, len(objects))) for n, are in shares.items()},
        "polygons": len(objects) - rles,
        "rles": rles,
        "crowds": len(crowds),
        "objects_per_class": {c["name"]: per_class[c["id"]] for c in content["categories"]},
    }


def _is_generated(root: str, manifest: dict) -> bool:
    """Whether ``root`` is the requested dataset already; False if it is missing or empty.

    Raises:
        InputError: ``root`` holds something else.
    """
    try:
        if not os.listdir(root):
            return False
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"dataset folder {root} cannot be used: {error.strerror}") from error
    try:
        found = read_json(root, _MANIFEST)
    except InputError:
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"dataset folder {root} exists and is not a generated shapes dataset; name a new folder"
        )
    # Earlier versions could write other class labels and named them in the manifest.
    expected = {**manifest, "labels": found.get("labels") and "shape"}
    differences = [k for k in expected if found.get(k) != expected[k]]
    if differences:
        key = differences[0]
        raise InputError(
            f"dataset folder {root} was generated with {key} {found.get(key)}, "
            f"not {expected[key]}; name a new folder or remove it"
        )
    return True


def _write_split(root: str, split: str, count: int, stream: np.random.SeedSequence) -> None:
    """Write the images and the json of one split; image i depends on (seed, split, i) only."""
    os.makedirs(os.path.join(root, split))
    os.makedirs(os.path.join(root, "annotations"), exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index, child in enumerate(stream.spawn(count)):
        rng = np.random.default_rng(child)
        scale = rng.uniform(_LEAST_SCALE, 1)
        height, width = (round(s * scale * rng.uniform(0.95, 1)) for s in _LARGEST)
        empty = index % _EMPTY_PERIOD == _EMPTY_AT
        image, objects = draw_scene(
            rng,
            height,
            width,
            num_objects=0 if empty else int(rng.integers(2, 4)),
            with_crowd=index % _CROWD_PERIOD == _CROWD_AT,
        )
        image_id = index + 1
        file_name = f"{image_id:012d}.jpg"
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        with open(os.path.join(root, split, file_name), "wb") as file:
            file.write(encoded.tobytes())
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for shape in objects:
            category_id = CATEGORY_IDS[shape.class_index]
            annotations.append(_annotation(shape, len(annotations) + 1, image_id, category_id))
    categories = [
        {"id": category_id, "name": name, "supercategory": "shape"}
        for category_id, name in zip(CATEGORY_IDS, CLASS_NAMES, strict=True)
    ]
    content = {
        "info": {"description": f"lambda_det generated shapes, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    write_json(content, os.path.join(root, "annotations", f"instances_{split}.json"), indent=None)


def _annotation(shape: SceneObject, annotation_id: int, image_id: int, category_id: int) -> dict:
    """One COCO annotation, with the additional key ``full_area``: its pixels before occlusion."""
    codes = mask_util.encode(np.asfortranarray(shape.mask.astype(np.uint8)))
    segmentation: dict | list
    if shape.is_crowd:
        segmentation = {"size": list(shape.mask.shape), "counts": _run_lengths(shape.mask)}
    elif shape.polygon is None or shape.is_occluded:
        segmentation = {"size": list(shape.mask.shape), "counts": codes["counts"].decode("ascii")}
    else:
        segmentation = [shape.polygon]
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": int(shape.is_crowd),
        "area": shape.area,
        "full_area": shape.full_area,
        "bbox": [float(value) for value in mask_util.toBbox(codes)],
        "segmentation": segmentation,
    }


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Counts of an uncompressed RLE, as COCO stores crowds: column by column, zeros first."""
    flat = np.concatenate([[False], mask.reshape(-1, order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
