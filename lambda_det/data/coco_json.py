"""Reading and checking a COCO instances json, once per process.

detectron2's ``load_coco_json`` trusts its input: a wrong file ends in a ``KeyError``, in an
assertion or, if an image file is missing, in an error of a data-loader worker long after the start.
This module checks everything that can be known from the json and a directory listing, before the
training.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from lambda_det.data.annotation_checks import check_annotation, check_image
from lambda_det.data.display_names import display_names
from lambda_det.data.rle import first_broken
from lambda_det.data.values import is_finite, shown
from lambda_det.errors import InputError
from lambda_det.io import read_json

_IMAGE_KEYS = ("id", "file_name", "height", "width")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox")


@dataclass(frozen=True)
class CocoSummary:
    """What the package needs to know about a COCO json that has passed the checks.

    Attributes:
        json_file: path of the json.
        categories: ``(id, name)`` pairs sorted by id, which is the order of the contiguous ids.
        num_objects: number of annotations that a model can learn from. Crowd regions and
            annotations whose polygons all have fewer than three points do not count.
        most_objects: the largest number of such annotations in one image, and its file name.
        unmasked: file name of the first image that has an annotation, not a crowd region, without
            segmentation; None if there is no such image.
        unevaluable: id of the first annotation that COCO's evaluation cannot use because
            ``iscrowd`` or ``area`` is missing; None if there is no such annotation.
        keypoints: names of the keypoints; empty if no category has any, or if two categories have
            different ones.
        misfit: id of the first annotation that has another number of keypoints; None if there is
            no such annotation.
    """

    json_file: str
    categories: tuple[tuple[int, str], ...]
    num_objects: int
    most_objects: tuple[int, str]
    unmasked: str | None
    unevaluable: int | None
    keypoints: tuple[str, ...] = ()
    misfit: int | None = None

    @property
    def class_names(self) -> list[str]:
        """Display names of the categories in the order of the contiguous ids."""
        return display_names(self.categories)

    @property
    def metadata(self) -> dict[str, object]:
        """detectron2's metadata: names and ids of the classes, and those of the keypoints, if any.

        A horizontal flip exchanges each keypoint whose name contains ``left`` with the one that has
        ``right`` in its place.
        """
        ids = {category_id: index for index, (category_id, _) in enumerate(self.categories)}
        of_classes = {
            "thing_classes": self.class_names,
            "thing_dataset_id_to_contiguous_id": ids,  # these start at 0
        }
        if not self.keypoints:
            return of_classes
        pairs = [(name, name.replace("left", "right")) for name in self.keypoints]
        flips = [pair for pair in pairs if pair[0] != pair[1] and pair[1] in self.keypoints]
        return {
            **of_classes,
            "keypoint_names": list(self.keypoints),
            "keypoint_flip_map": flips,
        }


_cache: dict[tuple[str, str, int, int], CocoSummary] = {}


def read_coco_json(json_file: str, image_root: str) -> CocoSummary:
    """Parse ``json_file``, check it and the files in ``image_root``, and return its summary.

    This takes one pass over the json and one ``os.scandir`` per image directory. The summary is
    cached by path, modification time and size; the json itself, which is large, is not.

    Raises:
        InputError: the json is missing, is not JSON or is not in COCO's instances format; there are
            no categories; an id occurs twice; a value is not valid; an annotation names an unknown
            image or category; a listed image does not exist.
    """
    try:
        status = os.stat(json_file)
    except OSError as error:
        raise InputError(f"annotation file {json_file} cannot be read: {error.strerror}") from error
    key = (json_file, image_root, status.st_mtime_ns, status.st_size)
    if key not in _cache:
        content = parse_coco_json(json_file)
        _cache[key] = summarize_coco(content, json_file, image_root)
    return _cache[key]


def summarize_coco(content: dict, json_file: str, image_root: str | None = None) -> CocoSummary:
    """Check a parsed json as :func:`read_coco_json` does, and return its summary.

    Args:
        content: the json, as :func:`parse_coco_json` returns it.
        json_file: path of the json, for error messages.
        image_root: folder of the images; None means that the image files are not checked.

    Raises:
        InputError: as :func:`read_coco_json`.
    """
    file = f"annotation file {json_file}"
    try:
        names = _check_categories(file, content["categories"])
        images = _check_images(file, content["images"])
        keypoints = _keypoints_of(content["categories"])
        found = _check_annotations(file, content["annotations"], names, images, len(keypoints))
        if image_root is not None:
            _check_files(json_file, [image["file_name"] for image in images.values()], image_root)
    except (TypeError, AttributeError) as error:  # such as a list in place of an id
        raise InputError(
            f"{file} is not in COCO format: a value of a wrong type ({error})"
        ) from error
    return CocoSummary(
        json_file=json_file,
        categories=tuple(sorted(names.items())),
        keypoints=keypoints,
        **found,
    )


def parse_coco_json(json_file: str) -> dict:
    """Parse a json and check that it has COCO's three lists; their entries are not checked.

    Raises:
        InputError: the file is missing, is not JSON, or has no list of images, annotations or
            categories.
    """
    content = read_json(json_file, called="annotation file")
    if not isinstance(content, dict):
        raise InputError(
            f"annotation file {json_file} is not in COCO format: its top level is "
            f"a {type(content).__name__}, not an object with images, annotations and categories"
        )
    for section in ("images", "annotations", "categories"):
        if not isinstance(content.get(section), list):
            raise InputError(
                f"annotation file {json_file} is not in COCO format: it has no list {section!r} "
                "(images, annotations and categories are needed)"
            )
    return content


def _keypoints_of(categories: list[dict]) -> tuple[str, ...]:
    lists = [c["keypoints"] for c in categories if c.get("keypoints")]
    if not lists or any(names != lists[0] for names in lists):
        return ()
    is_text = isinstance(lists[0], list) and all(isinstance(name, str) for name in lists[0])
    return tuple(lists[0]) if is_text and len(set(lists[0])) == len(lists[0]) else ()


def _entry(file: str, section: str, index: int, entry: object, keys: tuple[str, ...]) -> dict:
    """Return ``entry`` if it is a dict with all ``keys``, else raise InputError."""
    missing = [k for k in keys if k not in entry] if isinstance(entry, dict) else list(keys)
    if missing:
        raise InputError(
            f"{file}: {section}[{index}] has no {', '.join(missing)} "
            f"(each of {section} needs {', '.join(keys)})"
        )
    return entry  # type: ignore[return-value]


def _check_categories(file: str, categories: list) -> dict[int, str]:
    if not categories:
        raise InputError(f"{file}: categories is empty; list every class")
    names: dict[int, str] = {}
    for index, entry in enumerate(categories):
        category = _entry(file, "categories", index, entry, ("id", "name"))
        category_id, name = category["id"], category["name"]
        if not isinstance(category_id, int):
            raise InputError(f"{file}: category id {category_id!r} is not an integer")
        if category_id in names:
            raise InputError(
                f"{file}: category id {category_id} occurs twice ({names[category_id]!r} and "
                f"{name!r})"
            )
        if not isinstance(name, str):
            raise InputError(
                f"{file}: category id {category_id} has name {shown(name)}; text is needed"
            )
        names[category_id] = name
    return names


def _check_images(file: str, images: list) -> dict[int, dict]:
    found: dict[int, dict] = {}
    for index, entry in enumerate(images):
        image = _entry(file, "images", index, entry, _IMAGE_KEYS)
        where = f"{file}: image id {shown(image['id'])}"
        if image["id"] in found:
            names = f"{found[image['id']]['file_name']} and {image['file_name']}"
            raise InputError(f"{where} occurs twice ({names})")
        check_image(where, image)
        found[image["id"]] = image
    if not found:
        raise InputError(f"{file}: images is empty")
    kinds = {type(image_id) for image_id in found}
    if kinds not in ({int}, {str}):
        raise InputError(
            f"{file}: image ids are of several types "
            f"({', '.join(sorted(kind.__name__ for kind in kinds))}); all must be integers, or all "
            "strings"
        )
    return found


def _check_annotations(
    file: str, annotations: list, names: dict[int, str], images: dict[int, dict], num_keypoints: int
) -> dict[str, object]:
    """Check all annotations and return what :class:`CocoSummary` says of them."""
    seen: set[int] = set()
    objects: Counter[int] = Counter()
    codes: dict[int, dict] = {}
    unmasked, unevaluable, misfit = None, None, None
    for index, entry in enumerate(annotations):
        annotation = _entry(file, "annotations", index, entry, _ANNOTATION_KEYS)
        own_id, image_id = annotation["id"], annotation["image_id"]
        where = f"{file}: annotation id {own_id}"
        if own_id in seen:
            raise InputError(f"{where} occurs twice")
        seen.add(own_id)
        if image_id not in images:
            raise InputError(f"{where} has image_id {image_id!r}, which is not in images")
        if annotation["category_id"] not in names:
            raise InputError(
                f"{where} has category_id {annotation['category_id']!r}, which is not in "
                f"categories (ids {_some(sorted(names))})"
            )
        is_object, code = check_annotation(file, annotation, images[image_id])
        if code is not None:
            codes[own_id] = code
        if unevaluable is None and not (
            is_finite(annotation.get("area")) and annotation.get("iscrowd") in (0, 1)
        ):
            unevaluable = own_id
        if misfit is None and len(annotation.get("keypoints") or ()) not in (0, 3 * num_keypoints):
            misfit = own_id
        if is_object:
            objects[image_id] += 1
            if not annotation.get("segmentation"):
                unmasked = unmasked or images[image_id]["file_name"]
    if (broken := first_broken(list(codes.values()))) is not None:
        raise InputError(
            f"{file}: the segmentation of annotation id {list(codes)[broken]} is not a complete "
            "RLE of its image"
        )
    crowded, most = next(iter(objects.most_common(1)), (None, 0))
    return {
        "num_objects": sum(objects.values()),
        "most_objects": (most, images[crowded]["file_name"] if most else ""),
        "unmasked": unmasked,
        "unevaluable": unevaluable,
        "misfit": misfit,
    }


def _check_files(json_file: str, file_names: Collection[str], image_root: str) -> None:
    """Check that every listed image exists, with one listing of each directory."""
    listings: dict[str, set[str]] = {}
    missing: list[str] = []
    for file_name in file_names:
        path = os.path.join(image_root, file_name)
        directory, base = os.path.split(path)
        if directory not in listings:
            listings[directory] = _listing(directory)
        if base not in listings[directory]:
            missing.append(path)
    if missing:
        raise InputError(
            f"image {missing[0]}, listed in {json_file}, does not exist "
            f"({len(missing)} of the {len(file_names)} images listed are missing)"
        )


def _listing(directory: str) -> set[str]:
    try:
        with os.scandir(directory) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()


def _some(values: list[int], limit: int = 20) -> str:
    text = ", ".join(str(value) for value in values[:limit])
    return text if len(values) <= limit else f"{text}, ... {len(values)} in all"
