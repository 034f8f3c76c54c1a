"""The one way in for datasets in COCO's format: training, evaluation and every command use it.

The images that a json lists are looked for before the training; a missing one is otherwise an error
of a data-loader worker long after the start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from detectron2.structures import BoxMode

from lambda_det.data.reading.coco_json import CocoSet, CocoSummary, read_coco
from lambda_det.data.reading.file_names import FoundImages, find_images
from lambda_det.data.reading.values import id_order
from lambda_det.errors import InputError, key


class _File(NamedTuple):
    path: str
    image_root: str
    changed: int  # modification time in nanoseconds
    size: int


_known: dict[tuple[_File, bool], tuple[CocoSummary, FoundImages]] = {}  # bool: skip_missing
# Read with the summary, for the loader that soon asks for them: a large json takes a minute.
_waiting: dict[_File, list[dict]] = {}


def summarize_coco(json_file: str, image_root: str, *, skip_missing: bool = False) -> CocoSummary:
    """Read a json and look for its images; a second call for the same state of the file is free.

    The first time, a warning is logged for each kind of finding.

    Args:
        json_file: path of the json.
        image_root: folder of the images.
        skip_missing: whether images may be missing; the check of image files leaves them out, but
            those whose size the json does not say are left out here.

    Raises:
        InputError: as :func:`~lambda_det.data.reading.coco_json.read_coco`, or a listed image does
            not exist.
    """
    file = _file_of(json_file, image_root)
    known = _known.get((file, skip_missing))
    if known is None or (known[1].missing and not skip_missing):
        known = _read(file, skip_missing)  # what was missing may have come
    summary, images = known
    if not skip_missing:
        images.refuse_missing(f"; {key('DATALOADER.SKIP_UNREADABLE')} True leaves them out")
    return summary


def load_coco(json_file: str, image_root: str) -> list[dict]:
    """Read a json as images in detectron2's dataset format, sorted by id; files may be missing.

    Of a json without findings, the result is that of detectron2's ``load_coco_json``, with
    run-length masks as text.

    Raises:
        InputError: as :func:`~lambda_det.data.reading.coco_json.read_coco`.
    """
    file = _file_of(json_file, image_root)
    if file not in _waiting:
        _read(file, skip_missing=True)
    return _waiting.pop(file)


def release() -> None:
    """Forget the images that were read with a summary; for a command that needs no more."""
    _waiting.clear()


def _file_of(json_file: str, image_root: str) -> _File:
    try:
        status = os.stat(json_file)
    except OSError as error:
        raise InputError(f"annotation file {json_file} cannot be read: {error.strerror}") from error
    return _File(json_file, image_root, status.st_mtime_ns, status.st_size)


def _read(file: _File, skip_missing: bool) -> tuple[CocoSummary, FoundImages]:
    content = read_coco(file.path, file.image_root, skip_missing=skip_missing)
    names = [image["file_name"] for image in content.images]
    found = find_images(names, file.image_root, file.path)
    if not _known.keys() & {(file, False), (file, True)}:
        content.summary.findings.log()
        found.log()
    _known[file, skip_missing] = content.summary, found
    for other in [other for other in _waiting if other[:2] == file[:2]]:
        del _waiting[other]
    _waiting[file] = detectron2_images(content, found.paths)
    return content.summary, found


def detectron2_images(found: CocoSet, paths: Sequence[str]) -> list[dict]:
    """Return clean content as images in detectron2's dataset format, sorted by id.

    Args:
        found: the content.
        paths: path of each of its images.
    """
    numbers = {category: index for index, (category, _) in enumerate(found.summary.categories)}
    images = {
        image["id"]: {
            "file_name": path,
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
        }
        for image, path in sorted(
            zip(found.images, paths, strict=True), key=lambda pair: id_order(pair[0]["id"])
        )
    }
    for annotation in found.annotations:
        entry = {
            "iscrowd": annotation["iscrowd"],
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": numbers[annotation["category_id"]],
        }
        if annotation.get("segmentation"):
            entry["segmentation"] = annotation["segmentation"]
        if "keypoints" in annotation:  # COCO counts pixels from their corner, detectron2 does not
            entry["keypoints"] = [
                value if index % 3 == 2 else value + 0.5
                for index, value in enumerate(annotation["keypoints"] or ())
            ]
        images[annotation["image_id"]]["annotations"].append(entry)
    return list(images.values())
