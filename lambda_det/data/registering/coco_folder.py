"""Splits of a folder, or of a json, as detectron2 datasets.

``DATASETS.COCO_FOLDER`` or the environment variable ``LAMBDA_DET_COCO_FOLDER`` names the path;
:mod:`lambda_det.data.reading.layouts` says which layouts it may have. The classes, their contiguous
ids and their number are read from the json; the user does not give them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog

from lambda_det.data.reading.intake import load_coco, summarize_coco
from lambda_det.data.reading.layouts import SHARE, Split, find_layout
from lambda_det.errors import InputError

ENVIRONMENT_VARIABLE = "LAMBDA_DET_COCO_FOLDER"
PREFIX = "coco_folder_"


def register_coco_folder(root: str, split: str) -> str:
    """Register one split of a folder with detectron2 and return its dataset name.

    Args:
        root: the folder, or a json, see :func:`~lambda_det.data.reading.layouts.find_layout`.
        split: name of the split.

    Raises:
        InputError: the folder, the json or the image directory does not exist, or the json fails a
            check of :func:`lambda_det.data.reading.intake.summarize_coco`.
    """
    return register_split(find_layout(root).split(split))


def register_split(split: Split, *, skip_missing: bool = False) -> str:
    """Register a split with detectron2 and return its dataset name.

    The dataset is called ``coco_folder_<split>`` and replaces an earlier one of that name. The
    metadata (classes, contiguous ids, keypoints) are set at once.

    Args:
        split: the split.
        skip_missing: whether images may be missing.

    Raises:
        InputError: the json fails a check of :func:`lambda_det.data.reading.intake.summarize_coco`.
    """
    summary = summarize_coco(split.json_file, split.images, skip_missing=skip_missing)
    name = PREFIX + split.name
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    _register(name, split, skip_missing)
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
    with contextlib.suppress(InputError):
        layout = find_layout(root)
        for split in (split for split in layout.splits if split.images):
            names.append(PREFIX + split.name)
            if names[-1] not in DatasetCatalog:
                _register(names[-1], split, skip_missing=False)
    return names


def _register(name: str, split: Split, skip_missing: bool) -> None:
    def read() -> list[dict]:
        metadata = MetadataCatalog.get(name)
        summary = summarize_coco(split.json_file, split.images, skip_missing=skip_missing)
        try:
            metadata.set(**summary.metadata)
        except AssertionError as error:  # detectron2's, of a value that is there already
            raise InputError(
                f"annotation file {split.json_file} has other classes or keypoints than when "
                f"dataset {name!r} was registered"
            ) from error
        images = load_coco(split.json_file, split.images)
        if not split.part:
            return images
        own = frozenset(images_of(name, [image["image_id"] for image in images]))
        return [image for image in images if image["image_id"] in own]

    DatasetCatalog.register(name, read)
    metadata = MetadataCatalog.get(name)
    metadata.set(json_file=split.json_file, image_root=split.images, evaluator_type="coco")
    if split.part:
        metadata.set(part_of_json=(split.part, split.val_share))


def images_of(name: str, listed: Collection[int | str]) -> Collection[int | str]:
    """Return the ids of the images that a dataset has of those that its json lists.

    They are all of them, unless ``DATASETS.VAL_SHARE`` divides the json.

    Args:
        name: name of a dataset that is registered with detectron2.
        listed: ids of the images in its json.
    """
    part, val_share = MetadataCatalog.get(name).get("part_of_json", ("", 0.0))
    if not part:
        return listed
    training, validation = share_of(listed, val_share)
    return validation if part == SHARE else training


def share_of(
    images: Iterable[int | str], share: float
) -> tuple[frozenset[int | str], frozenset[int | str]]:
    """Divide images at random into those for training and those for validation.

    The division follows from the ids alone: it is the same in every run, and most of it stays when
    images are added.

    Args:
        images: their ids.
        share: share of the images for validation, between 0 and 1.

    Returns:
        The ids for training and those for validation, at least one of each.

    Raises:
        InputError: there are fewer than two images.
    """
    ordered = sorted(images, key=lambda number: hashlib.sha256(ascii(number).encode()).digest())
    if len(ordered) < 2:
        raise InputError(
            f"{len(ordered)} image cannot be divided into images for training and for validation"
        )
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    return frozenset(ordered[count:]), frozenset(ordered[:count])
