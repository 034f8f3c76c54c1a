"""Sizes of images that a json does not say, from the headers of their files."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lambda_det.data.file_names import find_images
from lambda_det.data.image_files import turned_size
from lambda_det.data.image_headers import read_headers
from lambda_det.data.layouts import find_layout
from lambda_det.data.values import whole
from lambda_det.errors import InputError

SIDES = ("height", "width")


def sizes_of_files(
    entries: Sequence[object], json_file: str, image_root: str | None
) -> dict[int, dict[str, int] | str]:
    """Measure the images whose height or width is missing, null, 0 or negative (some tools write
    -1).

    Args:
        entries: the list ``images`` of a json.
        json_file: path of the json.
        image_root: folder of the images; None = that of the dataset which the json is.

    Returns:
        Index of such an image -> its height and width as its EXIF turns it, or what is wrong with
        its file.
    """
    unsized = [
        index
        for index, entry in enumerate(entries)
        if isinstance(entry, dict)
        and isinstance(entry.get("file_name"), str)
        and any(_is_unsaid(entry.get(side)) for side in SIDES)
    ]
    if not unsized:
        return {}
    if image_root is None:
        try:
            image_root = find_layout(json_file).splits[0].images
        except InputError:
            return {}
    found = find_images([entries[i]["file_name"] for i in unsized], image_root, json_file)
    headers = read_headers(found.paths, os.cpu_count() or 1)
    sizes: dict[int, dict[str, int] | str] = {}
    for place, (index, path) in enumerate(zip(unsized, found.paths, strict=True)):
        header = headers[path]
        if isinstance(header, str):
            sizes[index] = f"its file {path} {found.missing.get(place, header)}"
        else:
            width, height = turned_size((header.width, header.height), header.orientation)
            sizes[index] = {"height": height, "width": width}
    return sizes


def _is_unsaid(side: object) -> bool:
    return side is None or ((number := whole(side)) is not None and number <= 0)
