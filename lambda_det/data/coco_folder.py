"""Folders in COCO layout as detectron2 datasets.

``DATASETS.COCO_FOLDER`` or the environment variable ``LAMBDA_DET_COCO_FOLDER`` names the folder.
The classes, their contiguous ids and their number are read from its json; the user does not give
them.
"""

from __future__ import annotations

import contextlib
import os
import re

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from lambda_det.data.coco_json import read_coco_json
from lambda_det.errors import InputError, key

ENVIRONMENT_VARIABLE = "LAMBDA_DET_COCO_FOLDER"
PREFIX = "coco_folder_"
KEYPOINTS = "person_keypoints_"

# COCO keeps annotations of other kinds in the same folder; these files are not splits.
_OTHER_ANNOTATIONS = re.compile(r"^(captions|image_info|panoptic|person_keypoints|stuff)_")


def register_coco_folder(root: str, split: str) -> str:
    """Register one split of a COCO-layout folder with detectron2 and return its dataset name.

    The json is ``<root>/annotations/instances_<split>.json``, or else
    ``<root>/annotations/<split>.json``. The images are in ``<root>/<split>/``,
    ``<root>/images/<split>/`` or ``<root>/images/``, whichever exists first. The dataset is called
    ``coco_folder_<split>`` and replaces an earlier one of that name. The images of the split
    ``person_keypoints_<split>``, as COCO calls it, are those of ``<split>``. The metadata (classes,
    contiguous ids, keypoints) are set at once; detectron2's ``load_coco_json`` reads the data when
    ``DatasetCatalog.get`` is called.

    Raises:
        InputError: the folder, the json or the image directory does not exist, or the json fails a
            check of :func:`lambda_det.data.coco_json.read_coco_json`.
    """
    json_file, image_root = locate_split(root, split)
    summary = read_coco_json(json_file, image_root)
    name = PREFIX + split
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    _register(name, json_file, image_root)
    MetadataCatalog.get(name).set(**summary.metadata)
    return name


def register_splits(root: str) -> list[str]:
    """Register every split of a folder that is not registered yet, without reading a json.

    This is for scripts that do not call :func:`configure_datasets`, such as detectron2's own. A
    json is checked, and the classes are set, when ``DatasetCatalog.get`` is first called.

    Args:
        root: the folder; if it does not exist, nothing is registered.

    Returns:
        The names ``coco_folder_<split>`` of all splits that have a json and images.
    """
    names = []
    for split in folder_splits(root):
        with contextlib.suppress(InputError):
            json_file, image_root = locate_split(root, split)
            names.append(PREFIX + split)
            if PREFIX + split not in DatasetCatalog:
                _register(PREFIX + split, json_file, image_root)
    return names


def _register(name: str, json_file: str, image_root: str) -> None:
    def read() -> list[dict]:
        metadata = MetadataCatalog.get(name)
        metadata.set(**read_coco_json(json_file, image_root).metadata)
        images = load_coco_json(json_file, image_root)  # with a name it would set the json's names
        ids = metadata.thing_dataset_id_to_contiguous_id
        for annotation in (one for image in images for one in image["annotations"]):
            annotation["category_id"] = ids[annotation["category_id"]]
        return images

    DatasetCatalog.register(name, read)
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco")


def locate_split(root: str, split: str) -> tuple[str, str]:
    """Find the json and the image directory of ``split`` in ``root``; return absolute paths.

    Raises:
        InputError: the folder, the json or the image directory does not exist.
    """
    root = absolute(root)
    if not os.path.isdir(root):
        raise InputError(f"{key('DATASETS.COCO_FOLDER')} {root} is not a directory")
    json_file = json_of(root, split)
    if json_file is None:
        expected = os.path.join(root, "annotations", f"instances_{split}.json")
        raise InputError(
            f"annotation file {expected} does not exist; "
            f"splits of this COCO folder: {', '.join(folder_splits(root)) or 'none'}"
        )
    folder = split.removeprefix(KEYPOINTS)
    candidates = (
        os.path.join(root, folder),
        os.path.join(root, "images", folder),
        os.path.join(root, "images"),
    )
    for image_root in candidates:
        if os.path.isdir(image_root):
            return json_file, image_root
    raise InputError(
        f"no image directory for split {split!r} of the COCO folder {root}: "
        f"none of {', '.join(candidates)} exists"
    )


def folder_splits(root: str) -> list[str]:
    """Sorted names of the splits that have a json in ``<root>/annotations``; empty without one."""
    try:
        files = os.listdir(os.path.join(root, "annotations"))
    except OSError:
        return []
    stems = (file.removesuffix(".json") for file in files if file.endswith(".json"))
    return sorted({s.removeprefix("instances_") for s in stems if not _OTHER_ANNOTATIONS.match(s)})


def json_of(root: str, split: str) -> str | None:
    for file in (f"instances_{split}.json", f"{split}.json"):
        path = os.path.join(root, "annotations", file)
        if os.path.isfile(path):
            return path
    return None


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
