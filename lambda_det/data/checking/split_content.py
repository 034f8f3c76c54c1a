"""The splits of a dataset, also of one to be converted to COCO's format, each read as a training
reads it, beside what its json says."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from lambda_det.data.checking.mask_images import mask_folders, read_mask_images
from lambda_det.data.checking.via import is_via, read_via, via_files
from lambda_det.data.images.image_checks import usable_images
from lambda_det.data.images.image_files import ImageReading
from lambda_det.data.reading.coco_json import CocoSet, clean_coco
from lambda_det.data.reading.file_names import image_paths
from lambda_det.data.reading.intake import detectron2_images
from lambda_det.data.reading.layouts import find_layout
from lambda_det.data.registering.datasets import check_trainable
from lambda_det.data.training_set_checks import TrainingResize, check_images
from lambda_det.errors import InputError
from lambda_det.io import read_json

STOCK_RESIZE = TrainingResize(short_sides=(800,), longest=1333)
"""How detectron2's own configs resize an image."""

_ALONE = "train2017"  # name of the split of a dataset that is converted and has no splits


@dataclass(frozen=True)
class SplitContent:
    """A split of a dataset.

    Attributes:
        name: its name.
        source: path of the json that it was read from.
        image_root: folder of the images.
        content: the json, as it is.
        found: what is clean of it.
        paths: image id -> path of its file, in the order of ``found.images``.
    """

    name: str
    source: str
    image_root: str
    content: dict
    found: CocoSet
    paths: dict[int | str, str]

    @functools.cached_property
    def images(self) -> list[dict]:
        """The images in detectron2's dataset format."""
        return detectron2_images(self.found, [*self.paths.values()])


Reader = Callable[..., SplitContent]
"""Reads a split; called with ``all_places``."""


def readers_of(
    path: str, split: str | None = None, class_attribute: str | None = None
) -> dict[str, Reader]:
    """Find the splits of a dataset: a folder or a json in COCO's format, a json of VIA or a folder
    with one, or a folder of images and masks.

    Args:
        path: the dataset.
        split: the only split to be read; the name of the split where the dataset has none.
        class_attribute: VIA's region attribute that is the class.

    Returns:
        Name of the split -> a function that reads it.

    Raises:
        InputError: nothing is recognised, or there is no such split.
    """
    content, found, unknown = None, {}, None
    if os.path.isfile(path) and path.endswith(".json"):  # COCO's or VIA's
        content = read_json(path, called="annotation file")
        found = {"": path} if is_via(content) else {}
    if not found:
        try:
            names = find_layout(path).names
        except InputError as error:
            unknown, found = error, via_files(path)
    if class_attribute is not None and not found:
        raise InputError(f"--class-attribute {class_attribute}: only a json of VIA has attributes")
    if not found and unknown is None:
        names = [split] if split else names
        return {name: partial(read_split, path, name, content=content) for name in names}
    read = partial(read_via, class_attribute=class_attribute) if found else read_mask_images
    found = found or mask_folders(path)
    if unknown is not None and not found:
        raise unknown
    if "" in found:
        found = {split or _ALONE: found[""]}
    if split is not None and split not in found:
        raise InputError(f"--split {split}: the splits of {path} are {', '.join(found)}")
    chosen = [split] if split else found
    return {name: partial(_converted, read, name, found[name]) for name in chosen}


def read_split(
    root: str, name: str, *, all_places: bool = False, content: dict | None = None
) -> SplitContent:
    """Read a split in a layout of COCO's format.

    Args:
        root: the folder or the json.
        name: name of the split.
        all_places: whether the findings remember where every entry stands.
        content: the json, if it was read before.

    Raises:
        InputError: a training would refuse it, as a test set, too.
    """
    split = find_layout(root).split(name)
    if content is None:
        content = read_json(split.json_file, called="annotation file")
    return _split_of(name, split.json_file, content, split.images, all_places)


def _converted(
    read: Callable[[str], tuple[dict, str]], name: str, path: str, *, all_places: bool = False
) -> SplitContent:
    return _split_of(name, path, *read(path), all_places)


def _split_of(
    name: str, source: str, content: dict, image_root: str, all_places: bool
) -> SplitContent:
    found = clean_coco(content, source, image_root, all_places=all_places)
    paths = image_paths([image["file_name"] for image in found.images], image_root, source)
    by_id = {image["id"]: path for image, path in zip(found.images, paths, strict=True)}
    return SplitContent(name, source, image_root, content, found, by_id)


def check_files(data: SplitContent, chosen: Collection[int | str] | None = None) -> None:
    """Check the image files, as a training does with detectron2's own way to read them.

    Args:
        data: the split.
        chosen: ids of the images; None = all.

    Raises:
        InputError: a file is truncated, cannot be opened, or has another size than the json says.
    """
    wanted = data.paths if chosen is None else set(chosen)
    images = [image for image in data.images if image["image_id"] in wanted]
    usable_images(images, data.source, ImageReading(), workers=os.cpu_count() or 1)


def check_learnable(data: SplitContent) -> None:
    """Check what a training checks of its training set alone.

    Raises:
        InputError: it has no object to learn, too many in one image, or all of its boxes are
            wrong in the same way.
    """
    check_trainable(data.found.summary)
    check_images(data.images, (data.name,), resize=STOCK_RESIZE, num_classes=None)
