"""What happens to one entry of the images of a COCO json: it is taken, mended or refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from lambda_det.data.images.exif import turned_size
from lambda_det.data.images.image_headers import read_headers
from lambda_det.data.reading.file_names import find_images
from lambda_det.data.reading.findings import Findings
from lambda_det.data.reading.layouts import find_layout
from lambda_det.data.reading.values import check_entry, shown, whole
from lambda_det.errors import InputError

logger = logging.getLogger(__name__)

_SIDES = ("height", "width")
_KEYS = ("id", "file_name", *_SIDES)
_MAX_SIDE = 2**16  # pycocotools counts the pixels of a mask in 32 bits


def clean_images(
    entries: list,
    json_file: str,
    image_root: str | None,
    findings: Findings,
    *,
    skip_missing: bool = False,
) -> dict[int | str, dict]:
    """Return id -> entry of the images; an entry that is not mended is the json's own.

    Args:
        entries: the list ``images`` of a json.
        json_file: path of the json.
        image_root: folder of the images; None = that of the dataset which the json is.
        findings: is told of what is mended.
        skip_missing: whether images are left out, with a warning, whose size neither the json nor
            their file tells, because it is missing or cannot be read.

    Raises:
        InputError: an entry makes no sense, or two are of one id; or there is none.
    """
    file = f"annotation file {json_file}"
    found: dict[int | str, dict] = {}
    sizes, faults = _sizes_of_files(entries, json_file, image_root)
    if skip_missing and faults:
        index, fault = next(iter(faults.items()))
        logger.warning(
            "%s: images that have no height or width, and no file that tells them: %d of %d "
            "(first: images[%d]: %s); they are left out, with their objects",
            file, len(faults), len(entries), index, fault,
        )  # fmt: skip
    for index, given in enumerate(entries):
        if index in faults:
            if skip_missing:
                continue
            given = {**dict.fromkeys(_SIDES), **given}
        measured = sizes.get(index)
        entry = {**given, **measured} if measured else given
        entry = check_entry(file, "images", index, entry, _KEYS)
        image = _image(file, index, entry, findings, faults.get(index, ""))
        name, place = f"image id {shown(image['id'])}", ("images", index, image["id"])
        findings.change("images", index, given, image)
        if measured:
            findings.add("image_size", name, place=place)
        if (known := found.get(image["id"])) is not None:
            if known != image:
                raise InputError(
                    f"{file}: {name} occurs twice ({known['file_name']} and {image['file_name']})"
                )
            findings.add("repeated", name, place=place)
        found[image["id"]] = image
    if not found:
        raise InputError(f"{file}: images is empty")
    for text in (image_id for image_id in found if type(image_id) is str):
        if (number := whole(text)) in found and str(number) == text:
            raise InputError(
                f"{file}: the image ids {shown(text)} and {number} are one id as text and as a "
                "number, so that nobody can tell which of the two an annotation means"
            )
    return found


def _image(file: str, index: int, entry: dict, findings: Findings, fault: str) -> dict:
    """Return an entry of ``images`` with an id, and with a size in whole pixels and a file name
    that can be used; ``fault`` is what is wrong with a file that was to say the size."""
    where = f"{file}: image id {shown(entry['id'])}"
    changes: dict[str, object] = {}
    if isinstance(entry["id"], float) and (number := whole(entry["id"])) is not None:
        changes["id"] = number
    elif type(entry["id"]) not in (int, str):
        raise InputError(f"{where}: a whole number or a text is needed")
    for side in _SIDES:
        if type(entry[side]) is not int and (number := whole(entry[side])) is not None:
            changes[side] = number
    image = {**entry, **changes} if changes else entry
    if changes:
        place = ("images", index, image["id"])
        name = f"image id {shown(entry['id'])}, {next(iter(changes))}"
        findings.add("number", name, place=place)
    if not all(type(image[s]) is int and 0 < image[s] < _MAX_SIDE for s in _SIDES):
        more = f" ({fault})" if fault else ""
        raise InputError(
            f"{where} has height {shown(entry['height'])} and width {shown(entry['width'])}; whole "
            f"numbers of pixels from 1 to {_MAX_SIDE - 1} are needed{more}"
        )
    name = image["file_name"]
    if not name or "\0" in name:
        raise InputError(f"{where} has file_name {shown(name)}; the name of a file is needed")
    return image


def _sizes_of_files(
    entries: Sequence[object], json_file: str, image_root: str | None
) -> tuple[dict[int, dict[str, int]], dict[int, str]]:
    """Measure the images whose height or width is missing, null, 0 or negative (some tools write
    -1).

    Returns:
        Index of such an image -> its ``height`` and ``width`` as its EXIF turns it; and index ->
        what is wrong with a file, which does not say them either.
    """
    unsized = [
        index
        for index, entry in enumerate(entries)
        if isinstance(entry, dict)
        and isinstance(entry.get("file_name"), str)
        and any(_is_unsaid(entry.get(side)) for side in _SIDES)
    ]
    sizes: dict[int, dict[str, int]] = {}
    faults: dict[int, str] = {}
    if not unsized:
        return sizes, faults
    if image_root is None:
        try:
            image_root = find_layout(json_file).splits[0].images
        except InputError:
            return sizes, faults
    found = find_images([entries[i]["file_name"] for i in unsized], image_root, json_file)
    headers = read_headers(found.paths, os.cpu_count() or 1)
    for place, (index, path) in enumerate(zip(unsized, found.paths, strict=True)):
        header = headers[path]
        if isinstance(header, str):
            faults[index] = f"its file {path} {found.missing.get(place, header)}"
        else:
            width, height = turned_size((header.width, header.height), header.orientation)
            sizes[index] = {"height": height, "width": width}
    return sizes, faults


def _is_unsaid(side: object) -> bool:
    return side is None or ((number := whole(side)) is not None and number <= 0)
