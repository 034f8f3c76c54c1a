"""Sizes of images from their headers, and which files of a folder are images."""

from __future__ import annotations

import os

from PIL import Image

from lambda_det.errors import InputError, reason_of

_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF: from 5 on, width and height are exchanged


def size_as_seen(path: str) -> tuple[int, int]:
    """Return height and width in pixels of an image, turned as its EXIF orientation says.

    Raises:
        InputError: the file is missing, or its header cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError and others
        raise InputError(f"image {path} cannot be read: {reason_of(error)}") from error
    return (width, height) if is_turned else (height, width)


def image_names(folder: str) -> list[str]:
    """Sorted names of the images in a folder, by the ends that Pillow knows; without hidden
    files. A folder that does not exist has none."""
    known = Image.registered_extensions()
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(
        name
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in known
    )
