"""Sizes of images that a json does not say, from the headers of their files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lambda_det.data.images.image_files import turned_size
from lambda_det.data.images.image_headers import read_headers
from lambda_det.data.reading.file_names import find_images
from lambda_det.data.reading.layouts import find_layout
from lambda_det.data.reading.values import whole
from lambda_det.errors import InputError

_SIDES = ("height", "width")

Sizes = tuple[dict[int, dict[str, int]], dict[int, str]]
"""Index of an image -> its ``height`` and ``width`` as its EXIF turns it; and index of an image ->
what is wrong with its file, which does not say them."""


def sizes_of_files(entries: Sequence[object], json_file: str, image_root: str | None) -> Sizes:
    """Measure the images whose height or width is missing, null, 0 or negative (some tools write
    -1).

    Args:
        entries: the list ``images`` of a json.
        json_file: path of the json.
        image_root: folder of the images; None = that of the dataset which the json is.
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
