"""One split of a dataset, read as a training reads it, beside what its json says."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

from lambda_det.data.coco_json import CocoSet, clean_coco, parse_coco_json
from lambda_det.data.datasets import check_trainable
from lambda_det.data.file_names import image_paths
from lambda_det.data.image_checks import usable_images
from lambda_det.data.image_files import ImageReading
from lambda_det.data.intake import detectron2_images
from lambda_det.data.layouts import locate_split
from lambda_det.data.training_set_checks import TrainingResize, check_images

STOCK_RESIZE = TrainingResize(short_sides=(800,), longest=1333)
"""How detectron2's own configs resize an image."""


@dataclass(frozen=True)
class SplitContent:
    """A split of a dataset.

    Attributes:
        name: its name.
        source: path of the json that it was read from.
        image_root: folder of the images.
        content: the json, as it is.
        found: what is clean of it.
        paths: image id -> path of its file.
    """

    name: str
    source: str
    image_root: str
    content: dict
    found: CocoSet
    paths: dict[int | str, str]

    @property
    def listed_paths(self) -> list[str]:
        """Path of each image, in the order of ``found.images``."""
        return [self.paths[image["id"]] for image in self.found.images]


def read_split(root: str, name: str, *, all_places: bool = False) -> SplitContent:
    """Read a split of a folder.

    Args:
        root: the folder.
        name: name of the split.
        all_places: whether the findings remember where every entry stands.

    Raises:
        InputError: a training would refuse it, as a test set, too.
    """
    json_file, image_root = locate_split(root, name)
    content = parse_coco_json(json_file)
    return split_of(name, json_file, image_root, content, all_places=all_places)


def split_of(
    name: str, source: str, image_root: str, content: dict, *, all_places: bool = False
) -> SplitContent:
    """Make a split of the content of a json; the arguments are those of the attributes.

    Raises:
        InputError: as :func:`read_split`.
    """
    found = clean_coco(content, source, all_places=all_places)
    paths = image_paths([image["file_name"] for image in found.images], image_root, source)
    paths = {image["id"]: path for image, path in zip(found.images, paths, strict=True)}
    return SplitContent(name, source, image_root, content, found, paths)


def check_files(data: SplitContent, chosen: Collection[int | str] | None = None) -> None:
    """Check the image files, as a training does with detectron2's own way to read them.

    Args:
        data: the split.
        chosen: ids of the images; None = all.

    Raises:
        InputError: a file is truncated, cannot be opened, or has another size than the json says.
    """
    wanted = data.paths if chosen is None else set(chosen)
    images = detectron2_images(data.found, data.listed_paths)
    images = [image for image in images if image["image_id"] in wanted]
    usable_images(images, data.source, ImageReading(), workers=os.cpu_count() or 1)


def check_learnable(data: SplitContent) -> None:
    """Check what a training checks of its training set alone.

    Raises:
        InputError: it has no object to learn, too many in one image, or all of its boxes are
            wrong in the same way.
    """
    check_trainable(data.found.summary)
    images = detectron2_images(data.found, data.listed_paths)
    check_images(images, (data.name,), resize=STOCK_RESIZE, num_classes=None)
