"""The splits of a dataset, also of one that has to be converted to COCO's format."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from lambda_det.data.layouts import find_layout
from lambda_det.data.mask_images import mask_folders, read_mask_images
from lambda_det.data.split_content import SplitContent, read_split, split_of
from lambda_det.data.via import read_via, via_files
from lambda_det.errors import InputError

Reader = Callable[..., SplitContent]
"""Reads a split; called with ``all_places``."""

_ALONE = "train2017"  # name of a split that has none


def readers_of(
    path: str, split: str | None = None, class_attribute: str | None = None
) -> dict[str, Reader]:
    """Find the splits of a dataset: a folder in COCO layout, a json of VIA or a folder with one, or
    a folder of images and masks.

    Args:
        path: the dataset.
        split: the only split to be read; the name of the split where the dataset has none.
        class_attribute: VIA's region attribute that is the class.

    Returns:
        Name of the split -> a function that reads it.

    Raises:
        InputError: nothing is recognised, or there is no such split.
    """
    found = via_files(path) if os.path.isfile(path) else {}  # any json may be one of COCO's
    names, unknown = [], None
    if not found:
        try:
            names = find_layout(path).names
        except InputError as error:
            unknown = error
            found = via_files(path)
    if not found:
        _refuse_attribute(class_attribute)
    if names:
        return {name: partial(read_split, path, name) for name in ([split] if split else names)}
    if found:
        read = partial(_converted, partial(read_via, class_attribute=class_attribute))
    elif found := mask_folders(path):
        read = partial(_converted, read_mask_images)
    elif unknown is not None:
        raise unknown
    if "" in found:
        found = {split or _ALONE: found[""]}
    if split is not None and split not in found:
        raise InputError(f"--split {split}: the splits of {path} are {', '.join(found)}")
    return {
        name: partial(read, name, file)
        for name, file in found.items()
        if split is None or name == split
    }


def _converted(
    read: Callable[[str], tuple[dict, str]], name: str, path: str, *, all_places: bool = False
) -> SplitContent:
    content, image_root = read(path)
    return split_of(name, path, image_root, content, all_places=all_places)


def _refuse_attribute(class_attribute: str | None) -> None:
    if class_attribute is not None:
        raise InputError(f"--class-attribute {class_attribute}: only a json of VIA has attributes")
