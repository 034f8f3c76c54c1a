"""Which way up an image is: EXIF's orientation, and the sizes before and after a turn by it."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image

from lambda_det.config import PILLOW_LIMIT
from lambda_det.errors import raise_if_of_machine

Size = tuple[int, int]
"""(width, height) in pixels."""

_ORIENTATION = 274  # tag of EXIF and TIFF
_QUARTER_TURNS = (5, 6, 7, 8)

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = TURNS | {6: TURNS[8], 8: TURNS[6]}
"""EXIF's orientation, if it turns an image -> Pillow's turn, and the one back."""

_PNG_START = 8  # bytes before the first chunk
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_PNG_KEYWORDS = {b"exif", b"Raw profile type exif", b"XML:com.adobe.xmp", b"xmp"}
_PNG_HEAD = 40  # bytes of a chunk; its length, name and the longest of the keywords


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's orientation of an image, 1 to 8; 1 = it is not turned, or nothing says so.

    Pillow decodes a PNG for this, because the orientation may follow the pixels.
    """
    try:
        return _orientation_in(image.getexif())
    except Exception as error:  # a damaged EXIF part; detectron2#1885
        raise_if_of_machine(error, "the EXIF part of an image")
        return 1


def orientation_in_header(image: Image.Image, file: BinaryIO) -> int:
    """Do what :func:`orientation_of` does, but decode a PNG only if texts follow its pixels and it
    has at most ``PILLOW_LIMIT`` pixels.

    Args:
        image: one that is not decoded yet.
        file: the file of it.
    """
    few = image.size[0] * image.size[1] <= PILLOW_LIMIT
    if image.format != "PNG" or "exif" in image.info or (few and _has_late_texts(file)):
        return orientation_of(image)
    try:
        return _orientation_in(Image.Image.getexif(image))  # PNG's own would decode
    except Exception:
        return 1


def _orientation_in(exif: Image.Exif) -> int:
    found = exif.get(_ORIENTATION, 1)
    return found if found in TURNS else 1


def _has_late_texts(file: BinaryIO) -> bool:
    """Whether chunks follow the pixels of a PNG that may tell its orientation."""
    before, place, in_pixels = file.tell(), _PNG_START, False
    try:
        while len(head := _read_at(file, place, _PNG_HEAD)) == _PNG_HEAD:  # the last has 12
            name, keyword = head[4:8], head[8:].split(b"\0")[0]
            in_pixels = in_pixels or name == b"IDAT"
            is_told = name == b"eXIf" or (name in _PNG_TEXTS and keyword in _PNG_KEYWORDS)
            if in_pixels and is_told:
                return True
            place += 12 + int.from_bytes(head[:4], "big")  # the length, the name and the sum
        return False
    finally:
        file.seek(before)


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def stored_size(image: Image.Image) -> Size:
    """Return the size of the frame in the file; Pillow's size of a TIFF is that after its turn."""
    tags = getattr(image, "tag_v2", None)
    return (tags[256], tags[257]) if tags else image.size


def turned_size(stored: Size, orientation: int) -> Size:
    """Return the size after the turn that EXIF's orientation says."""
    return stored[::-1] if orientation in _QUARTER_TURNS else stored
